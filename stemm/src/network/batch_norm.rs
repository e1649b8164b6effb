//! Batch norm (Ioffe & Szegedy 2015), for images `[batch, c, h, w]` and units `[batch, c]`:
//! `y = (x - mean) / sqrt(var + eps) * weight + bias`, with the mean and variance of each channel over the batch while
//! training, and their running averages (buffers `running_mean`, `running_var`) in evaluation.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Mode;
use super::layer::{Flow, Init, LayerRule, Pass, Plan, Seen, Values, check_epsilon, default_epsilon};
use crate::error::{Error, Result};

/// Batch norm of so many channels, as PyTorch's `BatchNorm1d` and `BatchNorm2d`; its tensors are `weight`, `bias` and
/// the buffers `running_mean`, `running_var`, all `[channels]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchNorm {
    channels: i64,
    #[serde(default = "default_epsilon")]
    epsilon: f64,
}

/// Share of the newest batch in the running averages while training: PyTorch's default.
pub(crate) const MOMENTUM: f64 = 0.1;

impl BatchNorm {
    /// Describes a batch norm of `channels` channels or units.
    pub fn new(channels: i64) -> BatchNorm {
        BatchNorm { channels, epsilon: default_epsilon() }
    }

    /// Adds `epsilon` to variances instead of PyTorch's default, 1e-5: state dicts do not say it.
    pub fn epsilon(self, epsilon: f64) -> BatchNorm {
        BatchNorm { epsilon, ..self }
    }
}

impl LayerRule for BatchNorm {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        check_epsilon(self.epsilon)?;
        if input.shape.first() != Some(&self.channels) {
            return Err(input.unfit(format!("[{}, ...]", self.channels)));
        }
        plan.parameter("weight", [input.axis.clone()], Init::Constant(1.0));
        plan.parameter("bias", [input.axis.clone()], Init::Constant(0.0));
        plan.running_statistics(&input.axis);
        Ok(input)
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        // Models side by side are more channels. Flattening takes views, so that running statistics are written in place.
        let flat = |tensor: &Tensor| tensor.f_flatten(0, -1);
        let (weight, bias) = (flat(values.parameter()?)?, flat(values.parameter()?)?);
        let (mean, variance) = (flat(values.buffer()?)?, flat(values.buffer()?)?);
        pass.show(Seen::NormInput, || Ok(x.shallow_clone()))?;
        if pass.mode != Mode::Eval && x.numel() < 2 * mean.numel() {
            let requirement = "at least 2: batch norm needs two values a channel in each batch";
            return Err(Error::Setting { setting: "batch_size", value: x.size()[0].to_string(), requirement });
        }
        let by_batch = pass.batch_statistics;
        // By the batch's statistics libtorch writes to the running ones that it is given: only where the caller asks.
        let statistics = if by_batch && pass.momentum.is_none() { None } else { Some((&mean, &variance)) };
        let momentum = pass.momentum.unwrap_or(MOMENTUM);
        let y = x.f_batch_norm(
            Some(&weight),
            Some(&bias),
            statistics.map(|(mean, _)| mean),
            statistics.map(|(_, variance)| variance),
            by_batch,
            momentum,
            self.epsilon,
            true,
        )?;
        pass.show(Seen::NormOutput, || Ok(y.shallow_clone()))?;
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Network;
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn batch_norm_trains_on_two_values_a_channel_and_not_on_one() -> Result<()> {
        for channels in [1, 3] {
            let network = Network::new([channels], [("norm", BatchNorm::new(channels).into())])?;
            let params = network.init(0, Device::Cpu)?;
            let run = |samples| {
                let x = Tensor::randn([samples, channels], (Kind::Float, Device::Cpu));
                network.forward(&params, &x, Mode::Train { seed: 0 })
            };
            assert!(run(2).is_ok(), "{channels}");
            assert!(matches!(run(1), Err(Error::Setting { setting: "batch_size", .. })), "{channels}");
        }
        Ok(())
    }
}
