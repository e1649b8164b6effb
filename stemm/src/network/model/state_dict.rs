//! Which tensor of a file is which of the network: renamed modules, wrappers' prefixes, and what does not fit.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tch::Kind;

use crate::error::{Error, Result};
use crate::file::Stored;
use crate::network::{Network, Params, TensorPlan};

/// What wrappers of PyTorch put before the name of every tensor: `DataParallel`, `torch.compile`, Lightning's modules.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// Pairs of module names, ours and the file's, behind a prefix of all names of the file.
pub(crate) struct Names<'a> {
    pairs: &'a [(&'a str, &'a str)],
    prefix: String,
}

/// Whether a tensor of a state dict counts something that no network here computes with.
pub(super) fn is_counter(name: &str) -> bool {
    name.ends_with("num_batches_tracked") || name == "n_averaged"
}

impl<'a> Names<'a> {
    /// Checks that each of our names is a module of the network, given once, and that no two tensors get one name.
    pub(super) fn new(network: &Network, pairs: &'a [(&'a str, &'a str)]) -> Result<Names<'a>> {
        let refused = |value: String, requirement| Err(Error::Setting { setting: "names", value, requirement });
        let (plan, _) = network.plan()?;
        let names = Names { pairs, prefix: String::new() };
        let (mut ours, mut theirs) = (HashSet::new(), HashMap::new());
        for (own, other) in pairs {
            let is_module = |tensor: &TensorPlan| behind(&tensor.name, own).is_some();
            let known = plan.parameters.iter().chain(&plan.buffers).any(is_module)
                || plan.layers.iter().any(|layer| layer.name == *own);
            let pair = || format!("{own:?} for the file's {other:?}");
            if !known {
                return refused(pair(), "pairs of a module of this network (see `.frame()`) and its name in the file");
            }
            if !ours.insert(own) {
                return refused(pair(), "one pair a module: this one has two");
            }
        }
        for tensor in plan.parameters.iter().chain(&plan.buffers) {
            if let Some(other) = theirs.insert(names.of(&tensor.name), &tensor.name) {
                let value = format!("{:?} for both {other:?} and {:?}", names.of(&tensor.name), tensor.name);
                return refused(value, "pairs that give each module a name of its own in the file");
            }
        }
        Ok(names)
    }

    /// The same names behind the prefix that wrappers gave to all names of a file.
    pub(super) fn behind_wrappers(mut self, network: &Network, tensors: &HashMap<String, Stored>) -> Names<'a> {
        let expected: Vec<String> = network.tensor_shapes().iter().map(|(name, _)| self.of(name)).collect();
        let found =
            |prefix: &str| expected.iter().filter(|name| tensors.contains_key(&format!("{prefix}{name}"))).count();
        let (mut prefix, mut most) = (String::new(), found(""));
        while let Some(wrapper) = WRAPPERS.iter().find(|wrapper| {
            let longer = format!("{prefix}{wrapper}");
            !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(&longer))
        }) {
            prefix += wrapper;
            if found(&prefix) > most {
                (self.prefix, most) = (prefix.clone(), found(&prefix));
            }
        }
        self
    }

    /// The name under which a file holds a tensor: the longest module name of the list that it begins with is exchanged.
    pub(super) fn of(&self, name: &str) -> String {
        let fitting = self.pairs.iter().filter_map(|(ours, theirs)| Some((ours.len(), theirs, behind(name, ours)?)));
        let exchanged = match fitting.max_by_key(|(length, ..)| *length) {
            Some((_, &theirs, rest)) => {
                [theirs, rest].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
            }
            None => name.to_owned(),
        };
        format!("{}{exchanged}", self.prefix)
    }
}

/// What follows a module's name in that of a tensor, if it is one of the module's; the empty name is the whole network's.
fn behind<'a>(tensor: &'a str, module: &str) -> Option<&'a str> {
    match tensor.strip_prefix(module)? {
        rest if module.is_empty() || rest.is_empty() => Some(rest),
        rest => rest.strip_prefix('.'),
    }
}

impl Network {
    /// Takes the network's tensors out of a file's, or lists all that does not fit.
    pub(crate) fn collect(
        &self,
        path: &Path,
        tensors: HashMap<String, impl Into<Stored>>,
        names: &[(&str, &str)],
    ) -> Result<Params> {
        self.collect_named(path, tensors, &Names::new(self, names)?)
    }

    pub(super) fn collect_named(
        &self,
        path: &Path,
        mut tensors: HashMap<String, impl Into<Stored>>,
        names: &Names,
    ) -> Result<Params> {
        let (mut missing, mut misshapen, mut quantised) = (Vec::new(), Vec::new(), 0);
        let (plan, _) = self.plan()?;
        let mut take = |plans: Vec<TensorPlan>| -> Result<Vec<_>> {
            let mut taken = Vec::new();
            for tensor in plans {
                let (theirs, expected) = (names.of(&tensor.name), tensor.shape());
                let Some(stored) = tensors.remove(&theirs).map(Into::into) else {
                    missing.push(theirs);
                    continue;
                };
                match stored.floats()? {
                    None => {
                        misshapen.push(format!("{theirs} is {} instead of floats", stored.format()));
                        quantised += 1;
                    }
                    Some(_) if stored.shape() != expected => {
                        misshapen.push(format!("{theirs} {:?} instead of {expected:?}", stored.shape()));
                    }
                    Some(values) => taken.push((tensor.name, values)),
                }
            }
            Ok(taken)
        };
        let params = Params::new(take(plan.parameters)?, take(plan.buffers)?);
        let mut surplus: Vec<String> = tensors.into_keys().collect();
        surplus.sort();
        let wrong = missing.len() + misshapen.len() + surplus.len();
        if wrong > 0 {
            let hint = match wrong - quantised {
                0 => "dequantise these tensors before saving: networks compute with floats",
                _ => "load it with the network it was saved from, or give a list of names that differ",
            };
            return Err(Error::StateDict { path: path.into(), missing, surplus, misshapen, hint });
        }
        // A network computes in one format: the one that loses no digit of any tensor.
        let double = params.all().any(|tensor| tensor.kind() == Kind::Double);
        if double { params.to_kind(Kind::Double) } else { Ok(params) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renamed(name: &str, pairs: &[(&str, &str)]) -> String {
        Names { pairs, prefix: String::new() }.of(name)
    }

    #[test]
    fn the_longest_module_name_is_exchanged_and_only_whole_names() {
        let names = [("layer1", "stage.0"), ("layer1.0.downsample", "skip"), ("fc", "head")];
        assert_eq!(renamed("layer1.0.conv1.weight", &names), "stage.0.0.conv1.weight");
        assert_eq!(renamed("layer1.0.downsample.1.bias", &names), "skip.1.bias");
        assert_eq!(renamed("layer10.weight", &names), "layer10.weight");
        assert_eq!(renamed("fc.bias", &names), "head.bias");
    }

    #[test]
    fn the_empty_name_is_the_whole_network() {
        assert_eq!(renamed("fc.bias", &[("", "backbone")]), "backbone.fc.bias");
        assert_eq!(renamed("fc.bias", &[("", "backbone"), ("fc", "head")]), "head.bias");
        assert_eq!(renamed("features.0.bias", &[("features", "")]), "0.bias");
    }
}
