//! Activations: functions of one value; they keep shape and permutation group.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layer::{Flow, LayerRule, Pass, Plan, Values};
use crate::error::Result;

/// The rectifier `max(x, 0)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relu;

/// The Gaussian error linear unit `x Φ(x)`, exact.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gelu;

/// The hyperbolic tangent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tanh;

impl LayerRule for Relu {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        Ok(input)
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_relu()?)
    }
}

impl LayerRule for Gelu {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        Ok(input)
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_gelu("none")?)
    }
}

impl LayerRule for Tanh {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        Ok(input)
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_tanh()?)
    }
}
