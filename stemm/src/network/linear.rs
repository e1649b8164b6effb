//! Linear layer: `y = x Wᵀ + b`, `x: [batch, in]`, `W: [out, in]`, `b: [out]`, `y: [batch, out]`.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layer::{Flow, Init, LayerRule, Pass, Plan, Seen, Values, check_size};
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

impl LayerRule for Linear {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        check_size("number of inputs", self.inputs, 1)?;
        check_size("number of outputs", self.outputs, 1)?;
        if input.shape != [self.inputs] {
            return Err(input.unfit(format!("[{}]", self.inputs)));
        }
        // PyTorch's default: Kaiming uniform with a = sqrt(5), that is, a bound of 1 / sqrt(inputs) for both.
        let bound = 1.0 / (self.inputs as f32).sqrt();
        let output = plan.ties.new_axis(self.outputs);
        plan.parameter("weight", [output.clone(), input.axis], Init::Uniform(bound));
        plan.parameter("bias", [output.clone()], Init::Uniform(bound));
        Ok(Flow { shape: vec![self.outputs], axis: output })
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (pass.cast(values.parameter()?)?, pass.cast(values.parameter()?)?);
        let x = pass.cast(x)?;
        pass.show(Seen::WeightInput, || Ok(x.shallow_clone()))?;
        let y = if pass.models == 1 {
            x.f_linear(&weight, Some(&bias))?
        } else {
            // One product a model: [models, batch, in] by [models, in, out].
            let x = pass.apart(&x)?.f_transpose(0, 1)?;
            let y = bias.f_unsqueeze(1)?.f_baddbmm(&x, &weight.f_transpose(1, 2)?, 1.0, 1.0)?;
            y.f_transpose(0, 1)?.f_flatten(1, 2)?
        };
        pass.show(Seen::WeightOutput, || Ok(y.shallow_clone()))?;
        Ok(y)
    }
}
