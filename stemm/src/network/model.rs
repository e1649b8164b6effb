//! A network together with its parameters, saved as safetensors.

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::DataFrame;
use tch::{Device, Tensor};

use super::{Mode, Network, Params};
use crate::chart::Chart;
use crate::error::{Error, Result};
use crate::file;

/// A [`Network`] and its [`Params`].
#[derive(Clone, Debug)]
pub struct Model {
    /// The description.
    pub network: Network,
    /// The values.
    pub params: Params,
}

impl Model {
    /// Puts a network and parameters together.
    ///
    /// # Errors
    /// Names or shapes that are not the network's; NaN or infinite values.
    pub fn new(network: Network, params: Params) -> Result<Model> {
        network.check_params(&params)?;
        Ok(Model { network, params })
    }

    /// Outputs `[batch, classes]` in evaluation mode.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.network.forward(&self.params, x, Mode::Eval)
    }

    /// The same model on another device.
    pub fn to_device(&self, device: impl Into<Device>) -> Result<Model> {
        Ok(Model { network: self.network.clone(), params: self.params.to_device(device)? })
    }

    /// Writes the model to a safetensors file, atomically; the network stands in its metadata.
    ///
    /// The tensors have their plain names, so that PyTorch reads the file as a state dict.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let network = Network::mlp(&[4, 8, 2])?;
    /// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
    /// let path = std::env::temp_dir().join("stemm-doc-model.safetensors");
    /// model.save(&path)?;
    /// assert_eq!(Model::load(&path, Device::Cpu)?.network, network);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.save_state_dict(path, &[])
    }

    /// Reads a model that [`Model::save`] or a training wrote.
    ///
    /// # Errors
    /// A missing, truncated or foreign file; tensors that do not fit the network; NaN or infinite values.
    pub fn load(path: impl AsRef<Path>, device: impl Into<Device>) -> Result<Model> {
        let path = path.as_ref();
        let (mut tensors, metadata) = file::read_tensors(path, device.into())?;
        let network: Network = file::from_metadata(path, &metadata, "network")?;
        network.plan()?;
        // Checkpoints hold other tensors besides.
        let own: Vec<String> = network.tensor_shapes().into_iter().map(|(name, _)| name).collect();
        tensors.retain(|name, _| own.contains(name));
        let params = network.collect(path, tensors, &[])?;
        Model::new(network, params)
    }

    /// Reads a state dict that PyTorch wrote as safetensors (`safetensors.torch.save_file`); see `docs/pytorch.md`.
    ///
    /// `names` lists pairs of module names, ours and the file's, wherever they differ: `[("layer1", "0")]` reads
    /// `layer1.weight` from `0.weight`. Half-precision values become f32; `num_batches_tracked` is not needed.
    ///
    /// # Errors
    /// As [`Model::load`]; missing, surplus and misshapen tensors are all listed.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let network = Network::mlp(&[4, 8, 2])?;
    /// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
    /// let path = std::env::temp_dir().join("stemm-doc-sequential.safetensors");
    /// let names = [("layer1", "0"), ("layer2", "2")]; // nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    /// model.save_state_dict(&path, &names)?;
    /// let back = Model::load_state_dict(&path, &network, &names, Device::Cpu)?;
    /// assert!(back.params.get("layer2.bias") == model.params.get("layer2.bias"));
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn load_state_dict(
        path: impl AsRef<Path>,
        network: &Network,
        names: &[(&str, &str)],
        device: impl Into<Device>,
    ) -> Result<Model> {
        let path = path.as_ref();
        let (mut tensors, _) = file::read_tensors(path, device.into())?;
        tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
        Model::new(network.clone(), network.collect(path, tensors, names)?)
    }

    /// Writes the model as a state dict for PyTorch, with modules renamed as by [`Model::load_state_dict`].
    pub fn save_state_dict(&self, path: impl AsRef<Path>, names: &[(&str, &str)]) -> Result<()> {
        let metadata = HashMap::from([("network".to_owned(), file::to_json(&self.network))]);
        let renamed: Vec<(String, &Tensor)> =
            self.params.iter().map(|(name, tensor)| (renamed(name, names), tensor)).collect();
        file::write_tensors(path.as_ref(), renamed.iter().map(|(name, tensor)| (name.as_str(), *tensor)), metadata)
    }

    /// One row a layer: name, type, output shape, trainable values, permutation groups.
    pub fn frame(&self) -> DataFrame {
        self.network.frame()
    }

    /// A picture of the permutation groups.
    pub fn chart(&self) -> Chart {
        self.network.chart()
    }

    /// Shows the summary table in the notebook.
    pub fn evcxr_display(&self) {
        self.network.evcxr_display();
    }
}

impl Network {
    /// Takes the network's tensors out of a file's, or lists all that does not fit.
    pub(crate) fn collect(
        &self,
        path: &Path,
        mut tensors: HashMap<String, Tensor>,
        names: &[(&str, &str)],
    ) -> Result<Params> {
        let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
        let (plan, _) = self.plan()?;
        let mut take = |plans: Vec<super::TensorPlan>| {
            let mut taken = Vec::new();
            for tensor in plans {
                let (theirs, expected) = (renamed(&tensor.name, names), tensor.shape());
                match tensors.remove(&theirs) {
                    Some(value) if value.size() == expected => taken.push((tensor.name, value)),
                    Some(value) => misshapen.push(format!("{theirs} {:?} instead of {expected:?}", value.size())),
                    None => missing.push(theirs),
                }
            }
            taken
        };
        let params = Params::new(take(plan.parameters), take(plan.buffers));
        let mut surplus: Vec<String> = tensors.into_keys().collect();
        surplus.sort();
        if missing.len() + misshapen.len() + surplus.len() > 0 {
            return Err(Error::StateDict {
                path: path.into(),
                missing,
                surplus,
                misshapen,
                hint: "load it with the network it was saved from, or give a list of names that differ",
            });
        }
        Ok(params)
    }
}

/// The name under which a file holds a tensor: the longest module name of the list that it begins with is exchanged.
fn renamed(name: &str, names: &[(&str, &str)]) -> String {
    let rest = |ours: &str| name.strip_prefix(ours).filter(|rest| rest.is_empty() || rest.starts_with('.'));
    let fitting = names.iter().filter_map(|(ours, theirs)| Some((ours.len(), theirs, rest(ours)?)));
    let longest = fitting.max_by_key(|(length, ..)| *length);
    longest.map_or_else(|| name.to_owned(), |(_, theirs, rest)| format!("{theirs}{rest}"))
}

/// The models of one operation share one network, and there are enough of them.
pub(crate) fn check_models(operation: &'static str, models: &[Model], needed: usize) -> Result<()> {
    if models.len() < needed {
        return Err(Error::TooFewModels { operation, found: models.len(), needed });
    }
    for (index, model) in models.iter().enumerate() {
        if model.network != models[0].network {
            return Err(Error::NetworkMismatch { index });
        }
        model.network.check_params(&model.params)?;
        let (kind, expected) = (model.params.kind(), models[0].params.kind());
        if kind != expected {
            let (found, expected) = (format!("{kind:?}"), format!("{expected:?}, that of model 0"));
            return Err(Error::NumberFormat { tensor: format!("model {index}"), found, expected });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_module_name_is_exchanged_and_only_whole_names() {
        let names = [("layer1", "stage.0"), ("layer1.0.downsample", "skip"), ("fc", "head")];
        assert_eq!(renamed("layer1.0.conv1.weight", &names), "stage.0.0.conv1.weight");
        assert_eq!(renamed("layer1.0.downsample.1.bias", &names), "skip.1.bias");
        assert_eq!(renamed("layer10.weight", &names), "layer10.weight");
        assert_eq!(renamed("fc.bias", &names), "head.bias");
    }
}
