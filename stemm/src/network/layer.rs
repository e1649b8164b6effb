//! What every layer states about itself. To add a layer type: one file with a struct and its [`LayerRule`], and one
//! line in each of the two lists below.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::spec::{Axis, Groups};
use super::{Linear, Mode, Relu};
use crate::error::Result;

/// A layer of a [`Network`](super::Network).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Layer {
    /// `y = x Wᵀ + b`.
    Linear(Linear),
    /// `y = max(x, 0)`.
    Relu(Relu),
}

impl Layer {
    pub(crate) fn rule(&self) -> &dyn LayerRule {
        match self {
            Layer::Linear(layer) => layer,
            Layer::Relu(layer) => layer,
        }
    }

    /// Name of the layer type, such as `Linear`.
    pub fn kind(&self) -> &'static str {
        match self {
            Layer::Linear(_) => "Linear",
            Layer::Relu(_) => "ReLU",
        }
    }
}

/// Shape rule, parameters, ties between axes and forward pass of one layer type.
pub(crate) trait LayerRule {
    /// Shape of an output sample for an input sample, or why the input does not fit.
    fn output_shape(&self, input: &[i64]) -> Result<Vec<i64>, String>;

    /// The parameter tensors, in the order in which `tie` and `forward` use them.
    fn tensors(&self) -> Vec<TensorRule> {
        Vec::new()
    }

    /// Says which axes move together: given the symbol of the input's channels, returns the axes of each tensor and
    /// the symbol of the output's channels. Element-wise layers keep the default.
    fn tie(&self, input: Axis, _groups: &mut Groups) -> (Vec<Vec<Axis>>, Axis) {
        (Vec::new(), input)
    }

    /// Output for a batch `x`, with the tensors of `tensors`.
    fn forward(&self, tensors: &[Tensor], x: &Tensor, mode: Mode) -> Result<Tensor>;
}

/// Name, shape and initial distribution of a parameter tensor.
pub(crate) struct TensorRule {
    pub suffix: &'static str,
    pub shape: Vec<i64>,
    /// Initial values are uniform in `[-bound, bound]`.
    pub bound: f32,
}

impl TensorRule {
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let n: i64 = self.shape.iter().product();
        (0..n).map(|_| rng.random_range(-self.bound..=self.bound)).collect()
    }
}
