//! A network together with its parameters, saved as safetensors.

mod state_dict;

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::DataFrame;
use tch::{Device, Tensor};

use super::{Mode, Network, Params};
use crate::chart::Chart;
use crate::error::{Error, Result};
use crate::file::{self, Contents, Metadata, Stored};
use crate::notebook::{Bundle, Show};
use state_dict::{Names, is_counter};

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
    /// The tensors have their plain names, so that PyTorch reads the file as a state dict. Parameters in f64 are written in
    /// f64, all others in f32.
    ///
    /// # Errors
    /// A file that cannot be written; the old one stays as it is.
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
    /// A missing, truncated or foreign file, named for what it is; tensors that do not fit the network; NaN or infinite
    /// values.
    pub fn load(path: impl AsRef<Path>, device: impl Into<Device>) -> Result<Model> {
        let path = path.as_ref();
        let (mut tensors, metadata) = file::read_stored(path, device.into())?;
        if !metadata.contains_key("network") {
            return Err(Contents::of(&tensors, &metadata).instead_of("model", path));
        }
        let network: Network = file::from_metadata(path, &metadata, "network")?;
        network.plan()?;
        // Checkpoints hold other tensors besides.
        tensors.retain(|name, _| !name.starts_with(file::RESERVED) && !is_counter(name));
        let renamed =
            "if it was written with other names, read it by `Model::load_state_dict`, with the network and these names";
        let params = network.collect(path, tensors, &[]).map_err(|error| hinted(error, renamed))?;
        Model::new(network, params)
    }

    /// Reads a state dict that PyTorch wrote as safetensors (`safetensors.torch.save_file`); see `docs/pytorch.md`.
    ///
    /// `names` lists pairs of module names, ours and the file's, wherever they differ: `[("layer1", "0")]` reads
    /// `layer1.weight` from `0.weight`, `[("", "backbone")]` all tensors from a module. The prefixes `module.`, `_orig_mod.`
    /// and `model.` that wrappers give to all names are recognised. Half-precision values become f32, and one tensor in f64
    /// makes the whole model f64; `num_batches_tracked` is not needed.
    ///
    /// # Errors
    /// As [`Model::load`]; missing, surplus and misshapen tensors and those that are no floats are all listed. A name of
    /// ours that is no module of the network, or two modules with one name.
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
        let names = Names::new(network, names)?;
        let path = path.as_ref();
        let (mut tensors, metadata) = file::read_stored(path, device.into())?;
        let contents = match Contents::of(&tensors, &metadata) {
            // A model that was written with other names is a state dict to all but this function.
            Contents::Model if !has_its_own_names(&tensors, &metadata) => Contents::StateDict,
            contents => contents,
        };
        tensors.retain(|name, _| !is_counter(name));
        let names = names.behind_wrappers(network, &tensors);
        let params = network.collect_named(path, tensors, &names).map_err(|error| match contents {
            Contents::StateDict => error,
            other => hinted(error, other.reader()),
        })?;
        Model::new(network.clone(), params)
    }

    /// Writes the model as a state dict for PyTorch, with modules renamed as by [`Model::load_state_dict`].
    ///
    /// # Errors
    /// As [`Model::save`]; a name of ours that is no module of the network, or two modules with one name.
    pub fn save_state_dict(&self, path: impl AsRef<Path>, names: &[(&str, &str)]) -> Result<()> {
        let names = Names::new(&self.network, names)?;
        let metadata = Metadata::from([("network".to_owned(), file::to_json(&self.network))]);
        let renamed: Vec<(String, &Tensor)> =
            self.params.iter().map(|(name, tensor)| (names.of(name), tensor)).collect();
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
}

impl Show for Model {
    fn look(&self) -> Bundle {
        self.network.look()
    }
}

/// The same error about the tensors of a file with another hint.
fn hinted(mut error: Error, better: &'static str) -> Error {
    if let Error::StateDict { hint, .. } = &mut error {
        *hint = better;
    }
    error
}

/// Whether a file's tensors have the names of the network in its metadata.
fn has_its_own_names(tensors: &HashMap<String, Stored>, metadata: &Metadata) -> bool {
    let network = metadata.get("network").and_then(|json| serde_json::from_str::<Network>(json).ok());
    network.is_some_and(|network| network.tensor_shapes().iter().all(|(name, _)| tensors.contains_key(name)))
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
