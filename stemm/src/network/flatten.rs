//! Flatten: `[batch, c, h, w]` to `[batch, c * h * w]`. Each channel becomes a block of `h * w` neighbouring units, which
//! move together.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layer::{Flow, LayerRule, Pass, Plan, Values};
use crate::error::Result;

/// Channels and positions in one axis, channel by channel.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flatten;

impl LayerRule for Flatten {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        let positions: i64 = input.shape.iter().skip(1).product(); // what flows has passed `check_values`
        let axis = input.axis.blocked(positions);
        Ok(Flow { shape: vec![axis.size()], axis })
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_flatten(1, -1)?)
    }
}
