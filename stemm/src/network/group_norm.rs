//! Group norm (Wu & He 2018): as layer norm, over equal runs of neighbouring channels. Permutations inside a run leave
//! its statistics as they are, and so does exchanging whole runs; a matching uses the larger of the two subgroups.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layer::{Flow, Init, LayerRule, Pass, Plan, Values, broken, check_epsilon, default_epsilon};
use crate::error::Result;

/// Group norm, as PyTorch's `GroupNorm`; its tensors are `weight` and `bias`, both `[channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupNorm {
    groups: i64,
    channels: i64,
    #[serde(default = "default_epsilon")]
    epsilon: f64,
}

impl GroupNorm {
    /// Describes a norm of `channels` channels in `groups` runs.
    pub fn new(groups: i64, channels: i64) -> GroupNorm {
        GroupNorm { groups, channels, epsilon: default_epsilon() }
    }

    /// Adds `epsilon` to variances instead of PyTorch's default, 1e-5: state dicts do not say it.
    pub fn epsilon(self, epsilon: f64) -> GroupNorm {
        GroupNorm { epsilon, ..self }
    }
}

impl LayerRule for GroupNorm {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        check_epsilon(self.epsilon)?;
        if self.groups < 1 || self.channels % self.groups != 0 {
            return Err(broken(format!("{} channels cannot be cut into {} equal runs", self.channels, self.groups)));
        }
        if input.shape.first() != Some(&self.channels) {
            return Err(input.unfit(format!("[{}, ...]", self.channels)));
        }
        plan.ties.divide(&input.axis, self.groups);
        plan.parameter("weight", [input.axis.clone()], Init::Constant(1.0));
        plan.parameter("bias", [input.axis.clone()], Init::Constant(0.0));
        Ok(input)
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        // Models side by side are more runs.
        let (weight, bias) = (values.parameter()?.f_flatten(0, -1)?, values.parameter()?.f_flatten(0, -1)?);
        let x = x.f_to_kind(weight.kind())?;
        Ok(x.f_group_norm(self.groups * pass.models, Some(&weight), Some(&bias), self.epsilon, true)?)
    }
}
