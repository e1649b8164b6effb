//! Permutation groups, derived from a network: which axes of which tensors must move together.
//!
//! Every axis of every tensor gets a symbol; each layer says which symbols it ties (union-find). Input and output of
//! the network are fixed. What remains are the groups: permuting all axes of a group alike leaves the function as it
//! is (Ainsworth et al. 2023, section 3).

use std::collections::HashMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Network;
use super::groups::{Axis, Ties};
use super::layer::TensorPlan;
use crate::error::{Error, Result};

/// A run of entries of a tensor axis: `units` units of `block` neighbouring entries each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisSegment {
    /// Index in [`PermutationSpec::groups`]; `None`: the entries stay where they are.
    pub group: Option<usize>,
    /// Units in this run: all units of the group.
    pub units: i64,
    /// Entries a unit; more than 1 where channels were flattened.
    pub block: i64,
}

/// A set of axes that must move together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermutationGroup {
    /// The layer that makes the units; with `#2`, ... if it makes several groups.
    pub name: String,
    /// Number of units.
    pub size: usize,
}

impl fmt::Display for PermutationGroup {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.size)
    }
}

/// The permutation groups of a network and what they move of each tensor.
#[derive(Clone, Debug)]
pub struct PermutationSpec {
    groups: Vec<PermutationGroup>,
    of_symbol: HashMap<usize, usize>,
    axes: Vec<Vec<Vec<AxisSegment>>>, // tensor, axis, segment; in the order of `Params::tensors`
    buffer_axes: Vec<Vec<Vec<AxisSegment>>>,
}

/// A run of a tensor axis that belongs to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub tensor: usize,
    pub axis: usize,
    /// First entry of the run.
    pub offset: i64,
    pub block: i64,
}

impl PermutationSpec {
    /// The groups, in the order of the layers.
    pub fn groups(&self) -> &[PermutationGroup] {
        &self.groups
    }

    /// The segments of each axis of each parameter, in the order of [`Params::tensors`](super::Params::tensors).
    pub fn axes(&self) -> &[Vec<Vec<AxisSegment>>] {
        &self.axes
    }

    /// The segments of each axis of each buffer, in the order of [`Params::buffers`](super::Params::buffers).
    pub fn buffer_axes(&self) -> &[Vec<Vec<AxisSegment>>] {
        &self.buffer_axes
    }

    /// The runs of parameter axes that belong to a group.
    pub(crate) fn members(&self, group: usize) -> Vec<Member> {
        let mut members = Vec::new();
        for (tensor, axes) in self.axes.iter().enumerate() {
            for (axis, segments) in axes.iter().enumerate() {
                let mut offset = 0;
                for segment in segments {
                    if segment.group == Some(group) {
                        members.push(Member { tensor, axis, offset, block: segment.block });
                    }
                    offset += segment.units * segment.block;
                }
            }
        }
        members
    }

    /// Checks that parameters have the axes that the groups move.
    pub(crate) fn check(&self, params: &super::Params) -> Result<()> {
        let length = |axis: &Vec<AxisSegment>| axis.iter().map(|segment| segment.units * segment.block).sum::<i64>();
        for (all, tensors) in [(&self.axes, params.tensors()), (&self.buffer_axes, params.buffers())] {
            // A surplus or missing tensor shows as one of another shape.
            for place in 0..all.len().max(tensors.len()) {
                let expected: Vec<i64> =
                    all.get(place).map(|axes| axes.iter().map(length).collect()).unwrap_or_default();
                let found = tensors.get(place).map(Tensor::size).unwrap_or_default();
                if expected != found {
                    let hint = "give parameters of the network that the permutations belong to";
                    return Err(Error::ShapeMismatch { tensor: format!("tensor {place}"), expected, found, hint });
                }
            }
        }
        Ok(())
    }

    /// An axis in terms of groups.
    pub(super) fn segments(&self, ties: &Ties, axis: &Axis) -> Vec<AxisSegment> {
        let group = |symbol: Option<usize>| symbol.and_then(|symbol| self.of_symbol.get(&symbol).copied());
        let resolved = ties.resolve(axis).into_iter();
        resolved.map(|s| AxisSegment { group: group(s.symbol), units: s.units, block: s.block }).collect()
    }

    /// Makes a group of each free symbol of a tensor, named after its layer.
    fn add_groups(&mut self, ties: &Ties, tensor: &TensorPlan) {
        for segment in tensor.axes.iter().flat_map(|axis| ties.resolve(axis)) {
            let Some(symbol) = segment.symbol.filter(|symbol| !self.of_symbol.contains_key(symbol)) else { continue };
            self.of_symbol.insert(symbol, self.groups.len());
            let taken = |name: &str| self.groups.iter().any(|group| group.name == name);
            let numbered = (2..).map(|number| format!("{}#{number}", tensor.layer));
            let name = std::iter::once(tensor.layer.clone()).chain(numbered).find(|name| !taken(name));
            self.groups.push(PermutationGroup { name: name.unwrap_or_default(), size: segment.units as usize });
        }
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
        let mut spec = PermutationSpec {
            groups: Vec::new(),
            of_symbol: HashMap::new(),
            axes: Vec::new(),
            buffer_axes: Vec::new(),
        };
        // Constructors and `Model::load` checked every layer.
        let Ok((plan, _)) = self.plan() else { return spec };
        for tensor in &plan.parameters {
            spec.add_groups(&plan.ties, tensor);
        }
        let axes = |tensors: &[TensorPlan]| {
            let axes =
                tensors.iter().map(|tensor| tensor.axes.iter().map(|axis| spec.segments(&plan.ties, axis)).collect());
            axes.collect::<Vec<_>>()
        };
        (spec.axes, spec.buffer_axes) = (axes(&plan.parameters), axes(&plan.buffers));
        spec
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn sizes(network: &Network) -> Vec<usize> {
        network.permutation_spec().groups().iter().map(|group| group.size).collect()
    }

    #[test]
    fn mlp_ties_each_hidden_layer_to_the_next_layers_inputs() {
        let spec = Network::mlp(&[5, 4, 3, 2]).unwrap().permutation_spec();
        let group = |group, units| vec![AxisSegment { group: Some(group), units, block: 1 }];
        let fixed = |units| vec![AxisSegment { group: None, units, block: 1 }];
        assert_eq!(
            spec.axes(),
            [
                vec![group(0, 4), fixed(5)],
                vec![group(0, 4)],
                vec![group(1, 3), group(0, 4)],
                vec![group(1, 3)],
                vec![fixed(2), group(1, 3)],
                vec![fixed(2)],
            ]
        );
        let member = |tensor, axis| Member { tensor, axis, offset: 0, block: 1 };
        assert_eq!(spec.members(0), [member(0, 0), member(1, 0), member(2, 1)]);
    }

    #[test]
    fn a_network_without_hidden_layers_has_no_groups() {
        assert!(sizes(&Network::mlp(&[5, 2]).unwrap()).is_empty());
    }

    #[test]
    fn residual_streams_share_a_group_and_inner_layers_have_their_own() {
        let network = Network::resnet20(1.0).unwrap();
        // Three streams and, in each of the nine blocks, the channels between its two convolutions.
        let mut found = sizes(&network);
        found.sort_unstable();
        assert_eq!(found, [16, 16, 16, 16, 32, 32, 32, 32, 64, 64, 64, 64]);
        let spec = network.permutation_spec();
        assert_eq!(spec.groups()[0].name, "conv1");
        assert_eq!(spec.buffer_axes()[0], vec![vec![AxisSegment { group: Some(0), units: 16, block: 1 }]]);
    }

    #[test]
    fn concatenated_channels_keep_the_groups_of_their_branches() {
        let branch = |name: &str, channels| Sequence::new([(name, Conv2d::new(3, channels, 1).into())]);
        let network = Network::new(
            [3, 2, 2],
            [
                ("join", Concat::new([branch("a", 4), branch("b", 6)]).into()),
                ("flatten", Flatten.into()),
                ("head", Linear::new(40, 5).into()),
            ],
        )
        .unwrap();
        let spec = network.permutation_spec();
        assert_eq!(sizes(&network), [4, 6]);
        let head = &spec.axes()[4][1];
        assert_eq!(head[0], AxisSegment { group: Some(0), units: 4, block: 4 });
        assert_eq!(head[1], AxisSegment { group: Some(1), units: 6, block: 4 });
        assert_eq!(spec.members(1)[2], Member { tensor: 4, axis: 1, offset: 16, block: 4 });
    }
}
