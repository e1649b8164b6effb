//! Statistics of merged networks. The activations of a mean of networks vary less than those of the networks (variance
//! collapse), and running statistics of batch norm belong to none of them; both can be set right with training data.
//!
//! Batch norm: the running statistics are reset and recomputed as the average over one pass of the data in training
//! mode. Networks without it: REPAIR (Jordan et al. 2023) rescales and shifts each hidden unit `x` of the merged network
//! so that its mean and standard deviation are those of the networks, averaged with the weights of the merge:
//! `x ← (x - μ) / σ · Σ w_i σ_i + Σ w_i μ_i`, layer by layer.

use std::cell::RefCell;
use std::fmt;

use tch::{Kind, Tensor};

use crate::data::{Dataset, Order};
use crate::error::Result;
use crate::evaluate::EVALUATION_BATCH;
use crate::network::{Mode, Network, Params, Pass};

/// How the statistics of a merged network are set right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Not at all: running statistics of batch norm are averaged like parameters.
    Off,
    /// Running statistics of batch norm are recomputed (the paper's); networks without batch norm stay as they are.
    #[default]
    BatchNorm,
    /// As `BatchNorm` where there is batch norm; else REPAIR's correction of each hidden unit's mean and variance, which
    /// costs a pass over the data for each layer. Layers without a bias keep their mean.
    Variance,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Repair::Off => "none",
            Repair::BatchNorm => "batch norm",
            Repair::Variance => "variance",
        })
    }
}

impl Repair {
    /// What the setting comes to for a network: the correction that is made, if any.
    pub(crate) fn done_to(self, network: &Network) -> Repair {
        match self {
            Repair::Variance if network.has_batch_norm() => Repair::BatchNorm,
            Repair::BatchNorm if !network.has_batch_norm() => Repair::Off,
            other => other,
        }
    }

    /// The parameters of `network`, which are the sum of `ends` with `weights`, with their statistics set right.
    pub(crate) fn apply(
        self,
        network: &Network,
        merged: Params,
        ends: &[&Params],
        weights: &[f64],
        data: &Dataset,
    ) -> Result<Params> {
        match self.done_to(network) {
            Repair::Off => Ok(merged),
            Repair::BatchNorm => with_batch_statistics(network, &merged, data),
            Repair::Variance => with_variance_of(network, &merged, ends, weights, data),
        }
    }
}

/// The same parameters with running statistics recomputed: their average over the batches of `data`, by their sizes.
pub(crate) fn with_batch_statistics(network: &Network, params: &Params, data: &Dataset) -> Result<Params> {
    if params.buffers().is_empty() {
        return Ok(params.clone());
    }
    let _guard = tch::no_grad_guard();
    let zeros = params.buffers().iter().map(|buffer| Ok(buffer.f_zeros_like()?)).collect::<Result<_>>()?;
    let repaired = params.with_buffers(zeros);
    let mut seen = 0.0;
    for batch in data.batches(EVALUATION_BATCH, Order::Sequential)? {
        let (x, y) = batch?;
        let samples = y.size()[0] as f64;
        seen += samples;
        let pass = Pass { momentum: Some(samples / seen), ..Pass::new(Mode::Train { seed: 0 }) };
        let _ = network.run(&repaired, &x, &pass)?; // what is wanted are the statistics
    }
    Ok(repaired)
}

/// REPAIR's correction of every hidden linear and convolution layer, from the first to the last.
fn with_variance_of(
    network: &Network,
    merged: &Params,
    ends: &[&Params],
    weights: &[f64],
    data: &Dataset,
) -> Result<Params> {
    let ends: Vec<Vec<Moments>> = ends.iter().map(|params| moments(network, params, data)).collect::<Result<_>>()?;
    let mut tensors: Vec<Tensor> = merged.tensors().iter().map(Tensor::shallow_clone).collect();
    for (position, layer) in network.weight_layers()?.into_iter().enumerate().filter(|(_, layer)| layer.hidden) {
        // The layers before this one have changed, and with them what it gets.
        let own =
            moments(network, &merged.with(tensors.iter().map(Tensor::shallow_clone).collect()), data)?.remove(position);
        let goal = |value: fn(&Moments) -> &Tensor| -> Result<Tensor> {
            let mut sum = value(&own).f_zeros_like()?;
            for (end, &weight) in ends.iter().zip(weights) {
                sum = sum.f_add(&value(&end[position]).f_mul_scalar(weight)?)?;
            }
            Ok(sum)
        };
        // A unit that never varies cannot be rescaled to vary.
        let ratio = goal(|m| &m.std)?.f_div(&own.std.f_clamp_min(1e-12)?)?;
        let ratio = ratio.f_where_self(&own.std.f_gt(1e-12)?, &own.std.f_ones_like()?)?;
        let weight = &tensors[layer.weight];
        let mut shape = vec![-1; 1];
        shape.resize(weight.dim(), 1);
        let factor = ratio.f_to_kind(weight.kind())?;
        let rescaled = weight.f_mul(&factor.f_view(shape.as_slice())?)?;
        tensors[layer.weight] = rescaled;
        if let Some(bias) = layer.bias {
            let shift = goal(|m| &m.mean)?.f_sub(&own.mean.f_mul(&ratio)?)?.f_to_kind(factor.kind())?;
            tensors[bias] = tensors[bias].f_mul(&factor)?.f_add(&shift)?;
        }
    }
    Ok(merged.with(tensors))
}

/// Mean and standard deviation of each output channel of a layer, in f64.
pub(crate) struct Moments {
    pub mean: Tensor,
    pub std: Tensor,
}

/// The moments of the outputs of all linear and convolution layers, in order, over the data in evaluation mode.
pub(crate) fn moments(network: &Network, params: &Params, data: &Dataset) -> Result<Vec<Moments>> {
    let _guard = tch::no_grad_guard();
    let mut sums: Vec<(Tensor, Tensor)> = Vec::new();
    let mut samples = 0.0;
    for batch in data.batches(EVALUATION_BATCH, Order::Sequential)? {
        let (x, y) = batch?;
        let outputs = RefCell::new(Vec::new());
        let _ = network.run(params, &x, &Pass { outputs: Some(&outputs), ..Pass::new(Mode::Eval) })?;
        samples += y.size()[0] as f64;
        for (index, output) in outputs.into_inner().iter().enumerate() {
            // [batch, channels, positions]: a mean over positions, a sum over samples.
            let values = output.f_flatten(1, -1)?.f_view([output.size()[0], output.size()[1], -1])?;
            let over = |t: Tensor| {
                t.f_mean_dim([2i64].as_slice(), false, Kind::Double)?.f_sum_dim_intlist(
                    [0i64].as_slice(),
                    false,
                    Kind::Double,
                )
            };
            let (sum, squares) = (over(values.shallow_clone())?, over(values.f_square()?)?);
            match sums.get_mut(index) {
                Some((total, total_squares)) => {
                    let _ = (total.f_add_(&sum)?, total_squares.f_add_(&squares)?);
                }
                None => sums.push((sum, squares)),
            }
        }
    }
    let finish = |(sum, squares): (Tensor, Tensor)| {
        let mean = sum.f_div_scalar(samples)?;
        let variance = squares.f_div_scalar(samples)?.f_sub(&mean.f_square()?)?;
        Ok(Moments { mean, std: variance.f_clamp_min(0.0)?.f_sqrt()? })
    };
    sums.into_iter().map(finish).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::blobs;
    use crate::network::{BatchNorm, Linear, Model, Relu};
    use tch::Device;

    #[test]
    fn recomputed_statistics_are_those_of_the_whole_data() -> Result<()> {
        let layers = [("fc1", Linear::new(16, 8).into()), ("bn1", BatchNorm::new(8).into()), ("relu", Relu.into())];
        let network = Network::new([16], layers)?;
        let params = network.init(0, Device::Cpu)?;
        let data = blobs(0, Device::Cpu)?.train; // 512 samples: one batch
        let repaired = with_batch_statistics(&network, &params, &data)?;
        let weight = params.get("fc1.weight").unwrap();
        let outputs = data.images().linear(weight, params.get("fc1.bias"));
        let error =
            |name: &str, expected: Tensor| (repaired.get(name).unwrap() - expected).abs().max().double_value(&[]);
        assert!(error("bn1.running_mean", outputs.mean_dim([0i64].as_slice(), false, Kind::Float)) < 1e-5);
        assert!(error("bn1.running_var", outputs.var_dim([0i64].as_slice(), true, false)) < 1e-5);
        assert_eq!(
            params.get("bn1.running_mean").unwrap().abs().max().double_value(&[]),
            0.0,
            "the input is unchanged"
        );
        Ok(())
    }

    #[test]
    fn corrected_units_have_the_mean_statistics_of_the_ends() -> Result<()> {
        let network = Network::mlp(&[16, 20, 12, 4])?;
        let data = blobs(0, Device::Cpu)?.train;
        let ends: Vec<Params> = (0..2).map(|seed| network.init(seed, Device::Cpu)).collect::<Result<_>>()?;
        let ends: Vec<&Params> = ends.iter().collect();
        let models: Vec<Model> =
            ends.iter().map(|p| Model::new(network.clone(), (*p).clone())).collect::<Result<_>>()?;
        let merged = super::super::merge_weighted(&models, &[0.3, 0.7], Repair::Variance, &data)?;
        let (own, a, b) = (
            moments(&network, &merged.params, &data)?,
            moments(&network, ends[0], &data)?,
            moments(&network, ends[1], &data)?,
        );
        for layer in 0..2 {
            for value in [|m: &Moments| m.mean.shallow_clone(), |m: &Moments| m.std.shallow_clone()] {
                let expected = value(&a[layer]) * 0.3 + value(&b[layer]) * 0.7;
                let error = (value(&own[layer]) - expected).abs().max().double_value(&[]);
                assert!(error < 1e-5, "layer {layer}: {error}");
            }
        }
        let plain = super::super::merge_weighted(&models, &[0.3, 0.7], Repair::BatchNorm, &data)?;
        let spread = |m: &[Moments]| m[1].std.sum(Kind::Double).double_value(&[]);
        assert!(spread(&moments(&network, &plain.params, &data)?) < 0.9 * spread(&own), "nothing to repair");
        Ok(())
    }
}
