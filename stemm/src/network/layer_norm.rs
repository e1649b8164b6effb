//! Layer norm (Ba et al. 2016) over whole samples: `y = (x - mean) / sqrt(var + eps) * weight + bias`, with the mean and
//! variance of each sample over all of its values. Any permutation of the channels leaves both as they are.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::groups::Axis;
use super::layer::{Flow, Init, LayerRule, Pass, Plan, Values, check_epsilon, default_epsilon};
use crate::error::Result;

/// Layer norm over samples of a shape, as PyTorch's `LayerNorm`: `[c, h, w]` or `[units]`; its tensors are `weight` and
/// `bias` of that shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    shape: Vec<i64>,
    #[serde(default = "default_epsilon")]
    epsilon: f64,
}

impl LayerNorm {
    /// Describes a layer norm over samples of `shape`.
    pub fn new(shape: impl Into<Vec<i64>>) -> LayerNorm {
        LayerNorm { shape: shape.into(), epsilon: default_epsilon() }
    }

    /// Adds `epsilon` to variances instead of PyTorch's default, 1e-5: state dicts do not say it.
    pub fn epsilon(self, epsilon: f64) -> LayerNorm {
        LayerNorm { epsilon, ..self }
    }
}

impl LayerRule for LayerNorm {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        check_epsilon(self.epsilon)?;
        if input.shape != self.shape || input.shape.is_empty() {
            return Err(input.unfit(format!("{:?}", self.shape)));
        }
        let mut axes = vec![input.axis.clone()];
        axes.extend(self.shape[1..].iter().map(|&size| Axis::fixed(size)));
        plan.parameter("weight", axes.clone(), Init::Constant(1.0));
        plan.parameter("bias", axes, Init::Constant(0.0));
        Ok(input)
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (values.parameter()?, values.parameter()?);
        let x = x.f_to_kind(weight.kind())?; // statistics and affine map in the parameters' precision
        let shape = self.shape.as_slice();
        if pass.models == 1 {
            return Ok(x.f_layer_norm(shape, Some(weight), Some(bias), self.epsilon, true)?);
        }
        let normal = pass.apart(&x)?.f_layer_norm::<Tensor>(shape, None, None, self.epsilon, true)?;
        Ok(normal.f_mul(weight)?.f_add(bias)?.f_flatten(1, 2)?)
    }
}
