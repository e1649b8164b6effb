//! A network together with its parameters, saved as safetensors.

use std::collections::HashMap;
use std::path::Path;

use polars::prelude::DataFrame;
use tch::{Device, Tensor};

use super::{Mode, Network, Params};
use crate::error::{Error, Result};
use crate::file;
use crate::frame::{column, frame};

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
        let metadata = HashMap::from([("network".to_owned(), file::to_json(&self.network))]);
        file::write_tensors(path.as_ref(), self.params.iter(), metadata)
    }

    /// Reads a model that [`Model::save`] or a training wrote.
    ///
    /// # Errors
    /// A missing, truncated or foreign file; tensors that do not fit the network; NaN or infinite values.
    pub fn load(path: impl AsRef<Path>, device: impl Into<Device>) -> Result<Model> {
        let path = path.as_ref();
        let (mut tensors, metadata) = file::read_tensors(path, device.into())?;
        let network: Network = file::from_metadata(path, &metadata, "network")?;
        network.check()?;
        let mut own = Vec::new();
        for (name, _) in network.tensor_shapes() {
            if let Some(tensor) = tensors.remove(&name) {
                own.push((name, tensor));
            }
        }
        Model::new(network, Params::new(own))
    }

    /// One row a layer: type, output shape, parameters, permutation group of its units.
    pub fn frame(&self) -> DataFrame {
        let spec = self.network.permutation_spec();
        let shapes = self.network.shapes().unwrap_or_default();
        let layers = self.network.layers();
        let parameters = layers.iter().map(|(_, layer)| {
            layer.rule().tensors().iter().map(|tensor| tensor.shape.iter().product::<i64>()).sum::<i64>()
        });
        let group = |name: &str| {
            let group = spec.groups().iter().find(|group| group.name == *name);
            group.map_or(String::new(), |group| format!("{} units", group.size))
        };
        frame([
            column("layer", layers.iter().map(|(name, _)| name.as_str())),
            column("type", layers.iter().map(|(_, layer)| layer.kind())),
            column("output_shape", shapes.iter().map(|shape| format!("{shape:?}"))),
            column("parameters", parameters),
            column("permutation_group", layers.iter().map(|(name, _)| group(name))),
        ])
    }

    /// Shows the summary table in the notebook.
    pub fn evcxr_display(&self) {
        let title = format!("{} parameters on {:?}", self.params.numel(), self.params.device());
        crate::notebook::show_frame(&self.frame(), &title);
    }
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
    }
    Ok(())
}
