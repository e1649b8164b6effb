//! Permutation groups, derived from a network: which axes of which tensors must move together.
//!
//! Every axis of every tensor gets a symbol; each layer says which symbols it ties (union-find). Input and output of
//! the network are fixed. What remains are the groups: permuting all axes of a group alike leaves the function as it
//! is (Ainsworth et al. 2023, section 3).

use serde::{Deserialize, Serialize};

use super::Network;

/// What a permutation does to one axis of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AxisRole {
    /// The axis belongs to no group: inputs, outputs, positions in a kernel.
    Fixed,
    /// The axis moves with the group of this index; each unit is a block of `block` neighbouring entries.
    Group {
        /// Index in [`PermutationSpec::groups`].
        group: usize,
        /// Entries a unit; more than 1 where channels were flattened.
        block: i64,
    },
}

/// A set of axes that must move together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermutationGroup {
    /// The layer that makes the units.
    pub name: String,
    /// Number of units.
    pub size: usize,
}

/// The permutation groups of a network and the role of each axis of each tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermutationSpec {
    groups: Vec<PermutationGroup>,
    axes: Vec<Vec<AxisRole>>, // one entry a tensor, in the order of `Params`
}

impl PermutationSpec {
    /// The groups, in the order of the layers.
    pub fn groups(&self) -> &[PermutationGroup] {
        &self.groups
    }

    /// The role of each axis of each tensor, in the order of [`Params`](super::Params).
    pub fn axes(&self) -> &[Vec<AxisRole>] {
        &self.axes
    }

    /// The `(tensor, axis, block)` that belong to a group.
    pub(crate) fn members(&self, group: usize) -> Vec<(usize, usize, i64)> {
        let mut members = Vec::new();
        for (tensor, roles) in self.axes.iter().enumerate() {
            for (axis, role) in roles.iter().enumerate() {
                if let AxisRole::Group { group: own, block } = *role
                    && own == group
                {
                    members.push((tensor, axis, block));
                }
            }
        }
        members
    }
}

impl Network {
    /// Derives the permutation groups from the description.
    ///
    /// ```
    /// let spec = stemm::network::Network::mlp(&[784, 512, 256, 10])?.permutation_spec();
    /// let sizes: Vec<usize> = spec.groups().iter().map(|group| group.size).collect();
    /// assert_eq!(sizes, [512, 256]); // one group a hidden layer
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn permutation_spec(&self) -> PermutationSpec {
        let mut groups = Groups::default();
        let input = groups.new_axis(self.input_shape.first().copied().unwrap_or(1));
        let mut channels = input;
        let mut symbols = Vec::new(); // (layer name, axes) of each tensor
        for (name, layer) in &self.layers {
            let (axes, output) = layer.rule().tie(channels, &mut groups);
            symbols.extend(axes.into_iter().map(|axes| (name.as_str(), axes)));
            channels = output;
        }
        let fixed = [groups.root(input.symbol), groups.root(channels.symbol)];

        let mut spec = PermutationSpec { groups: Vec::new(), axes: Vec::new() };
        let mut roots = Vec::new(); // root symbol of each group
        for (name, axes) in symbols {
            let roles = axes.into_iter().map(|axis| {
                let root = groups.root(axis.symbol);
                if fixed.contains(&root) {
                    return AxisRole::Fixed;
                }
                let group = roots.iter().position(|&known| known == root).unwrap_or_else(|| {
                    roots.push(root);
                    let size = groups.sizes[root] as usize;
                    spec.groups.push(PermutationGroup { name: name.to_owned(), size });
                    roots.len() - 1
                });
                AxisRole::Group { group, block: axis.block }
            });
            let roles = roles.collect();
            spec.axes.push(roles);
        }
        spec
    }
}

/// The symbol of an axis, and how many neighbouring entries each of its units has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Axis {
    symbol: usize,
    block: i64,
}

/// Symbols and which of them are tied: a union-find.
#[derive(Default)]
pub(crate) struct Groups {
    parents: Vec<usize>,
    sizes: Vec<i64>,
}

impl Groups {
    /// A new symbol for an axis of `size` units.
    pub(crate) fn new_axis(&mut self, size: i64) -> Axis {
        self.parents.push(self.parents.len());
        self.sizes.push(size);
        Axis { symbol: self.parents.len() - 1, block: 1 }
    }

    fn root(&self, mut symbol: usize) -> usize {
        while self.parents[symbol] != symbol {
            symbol = self.parents[symbol];
        }
        symbol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mlp_ties_each_hidden_layer_to_the_next_layers_inputs() {
        let spec = Network::mlp(&[5, 4, 3, 2]).unwrap().permutation_spec();
        let group = |group| AxisRole::Group { group, block: 1 };
        assert_eq!(
            spec.axes(),
            [
                vec![group(0), AxisRole::Fixed],
                vec![group(0)],
                vec![group(1), group(0)],
                vec![group(1)],
                vec![AxisRole::Fixed, group(1)],
                vec![AxisRole::Fixed],
            ]
        );
        assert_eq!(spec.members(0), [(0, 0, 1), (1, 0, 1), (2, 1, 1)]);
    }

    #[test]
    fn a_network_without_hidden_layers_has_no_groups() {
        assert!(Network::mlp(&[5, 2]).unwrap().permutation_spec().groups().is_empty());
    }
}
