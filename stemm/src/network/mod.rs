//! Networks as values: a [`Network`] describes layers, [`Params`] holds the tensors, [`Network::forward`] is a pure
//! function of both. The permutation groups follow from the description ([`PermutationSpec`]).

mod layer;
mod linear;
mod model;
mod params;
mod relu;
mod spec;

pub use layer::Layer;
pub use linear::Linear;
pub use model::Model;
pub(crate) use model::check_models;
pub use params::Params;
pub(crate) use params::copied;
pub use relu::Relu;
pub use spec::{AxisRole, PermutationGroup, PermutationSpec};

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::rng::{Purpose, rng};

/// How a network runs: layers such as batch norm and dropout differ between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With the statistics of the batch and with dropout.
    Train,
    /// With the stored statistics and without dropout.
    Eval,
}

/// An immutable description of a network: the shape of one input and named layers in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    input_shape: Vec<i64>,
    layers: Vec<(String, Layer)>,
}

impl Network {
    /// Describes a network for inputs of `input_shape` (without the batch axis).
    ///
    /// # Errors
    /// The first layer that does not fit its input, by name; a name that occurs twice.
    ///
    /// ```
    /// use stemm::network::{Linear, Network, Relu};
    /// let network = Network::new([2], [
    ///     ("hidden", Linear::new(2, 8).into()),
    ///     ("relu", Relu.into()),
    ///     ("out", Linear::new(8, 3).into()),
    /// ])?;
    /// assert_eq!(network.output_shape(), [3]);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn new<'a>(
        input_shape: impl Into<Vec<i64>>,
        layers: impl IntoIterator<Item = (&'a str, Layer)>,
    ) -> Result<Network> {
        let layers: Vec<(String, Layer)> = layers.into_iter().map(|(name, layer)| (name.to_owned(), layer)).collect();
        let network = Network { input_shape: input_shape.into(), layers };
        network.check()?;
        Ok(network)
    }

    /// A multi-layer perceptron: linear layers `layer1`, `layer2`, ... with ReLU between them.
    ///
    /// Images are flattened: `widths[0]` is the number of pixels. The paper's network for MNIST and Fashion-MNIST is
    /// `Network::mlp(&[784, 512, 512, 512, 10])`.
    ///
    /// # Errors
    /// Fewer than two widths, or a width below 1.
    pub fn mlp(widths: &[i64]) -> Result<Network> {
        let last = widths.len().saturating_sub(1);
        if last == 0 {
            return Err(Error::Setting {
                setting: "widths",
                value: format!("{widths:?}"),
                requirement: "a list of at least two widths: input, hidden layers, output",
            });
        }
        let mut layers = Vec::new();
        for (index, pair) in (1..).zip(widths.windows(2)) {
            layers.push((format!("layer{index}"), Linear::new(pair[0], pair[1]).into()));
            if index < last {
                layers.push((format!("relu{index}"), Relu.into()));
            }
        }
        let network = Network { input_shape: vec![widths[0]], layers };
        network.check()?;
        Ok(network)
    }

    /// Shape of one input, without the batch axis.
    pub fn input_shape(&self) -> &[i64] {
        &self.input_shape
    }

    /// Shape of one output, without the batch axis.
    pub fn output_shape(&self) -> Vec<i64> {
        // Constructors and `Model::load` checked every layer.
        self.shapes().map(|shapes| shapes.last().cloned().unwrap_or_default()).unwrap_or_default()
    }

    /// Layers in order, with their names.
    pub fn layers(&self) -> &[(String, Layer)] {
        &self.layers
    }

    /// Output shape of each layer; an error names the first layer that does not fit.
    pub(crate) fn shapes(&self) -> Result<Vec<Vec<i64>>> {
        let mut shape = self.input_shape.clone();
        self.layers
            .iter()
            .map(|(name, layer)| {
                shape =
                    layer.rule().output_shape(&shape).map_err(|reason| Error::Layer { layer: name.clone(), reason })?;
                Ok(shape.clone())
            })
            .collect()
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.shapes()?;
        for (index, (name, _)) in self.layers.iter().enumerate() {
            if self.layers[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(Error::Layer { layer: name.clone(), reason: "another layer has the same name".into() });
            }
        }
        Ok(())
    }

    /// Names and shapes of the parameter tensors, in their fixed order.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<i64>)> {
        let mut shapes = Vec::new();
        for (name, layer) in &self.layers {
            let tensors = layer.rule().tensors();
            shapes.extend(tensors.into_iter().map(|tensor| (format!("{name}.{}", tensor.suffix), tensor.shape)));
        }
        shapes
    }

    /// Draws parameters as PyTorch's modules do by default; the same seed gives the same values on every device.
    pub fn init(&self, seed: u64, device: impl Into<Device>) -> Result<Params> {
        let device = device.into();
        let mut rng = rng(seed, Purpose::Initialisation);
        let mut tensors = Vec::new();
        for (name, layer) in &self.layers {
            for tensor in layer.rule().tensors() {
                let values = tensor.draw(&mut rng);
                let values = Tensor::f_from_slice(&values)?.f_view(tensor.shape.as_slice())?.f_to_device(device)?;
                tensors.push((format!("{name}.{}", tensor.suffix), values));
            }
        }
        Ok(Params::new(tensors))
    }

    /// Computes the outputs `[batch, ...]` for inputs `x: [batch, ...]`; each sample is reshaped to the input shape.
    ///
    /// # Errors
    /// Samples with another number of values than the input shape, parameters of another network.
    pub fn forward(&self, params: &Params, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let size = x.size();
        let per_sample: i64 = size.iter().skip(1).product();
        if size.len() < 2 || per_sample != self.input_shape.iter().product::<i64>() {
            return Err(Error::ShapeMismatch {
                tensor: "one sample of the input".into(),
                expected: self.input_shape.clone(),
                found: size.into_iter().skip(1).collect(),
                hint: "use data that fits the network's input shape",
            });
        }
        let mut shape = vec![size[0]];
        shape.extend(&self.input_shape);
        let mut x = x.f_reshape(shape.as_slice())?;
        let mut rest = params.tensors();
        for (_, layer) in &self.layers {
            let rule = layer.rule();
            let (own, later) = rest.split_at_checked(rule.tensors().len()).ok_or_else(|| self.names_error(params))?;
            x = rule.forward(own, &x, mode)?;
            rest = later;
        }
        Ok(x)
    }

    /// Checks that the parameters are this network's: names, shapes, finite values.
    pub fn check_params(&self, params: &Params) -> Result<()> {
        let shapes = self.tensor_shapes();
        if shapes.len() != params.len() || shapes.iter().zip(params.iter()).any(|((a, _), (b, _))| a != b) {
            return Err(self.names_error(params));
        }
        for ((name, expected), (_, tensor)) in shapes.into_iter().zip(params.iter()) {
            if tensor.size() != expected {
                let hint = "load the parameters with the network they were saved with";
                return Err(Error::ShapeMismatch { tensor: name, expected, found: tensor.size(), hint });
            }
            if !crate::data::all_finite(tensor)? {
                return Err(Error::NonFinite { tensor: name });
            }
        }
        Ok(())
    }

    fn names_error(&self, params: &Params) -> Error {
        let expected: Vec<String> = self.tensor_shapes().into_iter().map(|(name, _)| name).collect();
        let found: Vec<String> = params.iter().map(|(name, _)| name.to_owned()).collect();
        Error::TensorNames {
            missing: expected.iter().filter(|name| !found.contains(name)).cloned().collect(),
            surplus: found.iter().filter(|name| !expected.contains(name)).cloned().collect(),
        }
    }
}
