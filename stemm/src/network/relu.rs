//! ReLU: `y = max(x, 0)` element by element; keeps shape and permutation group.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Mode;
use super::layer::{Layer, LayerRule};
use crate::error::Result;

/// The rectifier `max(x, 0)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu;

impl From<Relu> for Layer {
    fn from(layer: Relu) -> Layer {
        Layer::Relu(layer)
    }
}

impl LayerRule for Relu {
    fn output_shape(&self, input: &[i64]) -> Result<Vec<i64>, String> {
        Ok(input.to_vec())
    }

    fn forward(&self, _tensors: &[Tensor], x: &Tensor, _mode: Mode) -> Result<Tensor> {
        Ok(x.f_relu()?)
    }
}
