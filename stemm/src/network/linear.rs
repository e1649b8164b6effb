//! Linear layer: `y = x Wᵀ + b`, `x: [batch, in]`, `W: [out, in]`, `b: [out]`, `y: [batch, out]`.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Mode;
use super::layer::{Layer, LayerRule, TensorRule};
use super::spec::{Axis, Groups};
use crate::error::Result;

/// A linear layer with bias; its tensors are `weight: [out, in]` and `bias: [out]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    inputs: i64,
    outputs: i64,
}

impl Linear {
    /// Describes a layer from `inputs` to `outputs` units.
    pub fn new(inputs: i64, outputs: i64) -> Linear {
        Linear { inputs, outputs }
    }
}

impl From<Linear> for Layer {
    fn from(layer: Linear) -> Layer {
        Layer::Linear(layer)
    }
}

impl LayerRule for Linear {
    fn output_shape(&self, input: &[i64]) -> Result<Vec<i64>, String> {
        if self.inputs < 1 || self.outputs < 1 {
            return Err(format!("it goes from {} to {} units, both must be at least 1", self.inputs, self.outputs));
        }
        if input != [self.inputs] {
            return Err(format!("it takes inputs of shape [{}], but gets {input:?}", self.inputs));
        }
        Ok(vec![self.outputs])
    }

    fn tensors(&self) -> Vec<TensorRule> {
        // PyTorch's default: Kaiming uniform with a = sqrt(5), that is, a bound of 1 / sqrt(inputs) for both.
        let bound = 1.0 / (self.inputs as f32).sqrt();
        vec![
            TensorRule { suffix: "weight", shape: vec![self.outputs, self.inputs], bound },
            TensorRule { suffix: "bias", shape: vec![self.outputs], bound },
        ]
    }

    fn tie(&self, input: Axis, groups: &mut Groups) -> (Vec<Vec<Axis>>, Axis) {
        let output = groups.new_axis(self.outputs);
        (vec![vec![output, input], vec![output]], output)
    }

    fn forward(&self, tensors: &[Tensor], x: &Tensor, _mode: Mode) -> Result<Tensor> {
        Ok(x.f_linear(&tensors[0], Some(&tensors[1]))?)
    }
}
