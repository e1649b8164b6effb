//! Statistics of merged networks. The activations of a mean of networks vary less than those of the networks (variance
//! collapse), and running statistics of batch norm belong to none of them; both can be set right with training data.
//!
//! Batch norm: the running statistics become the mean and variance, over all samples, of what each norm gets in the
//! network as it is evaluated. The paper averages those of training batches instead, which forgets how far the batches'
//! means are apart: sorted data then give variances near zero. Networks without it: REPAIR (Jordan et al. 2023) rescales and
//! shifts each hidden unit `x` of the merged network so that its mean and standard deviation are those of the networks,
//! averaged with the weights of the merge: `x ← (x - μ) / σ · Σ w_i σ_i + Σ w_i μ_i`, layer by layer.

use std::cell::RefCell;
use std::fmt;

use tch::Tensor;

use crate::data::{Dataset, Order};
use crate::error::{Error, Result};
use crate::moments::Pooled;
use crate::network::{Memory, Mode, Network, Observer, Params, Pass, Seen};

/// Samples of the training data that set statistics right wherever that is done at many places, by default.
pub(crate) const REPAIR_SAMPLES: usize = 5_000;

/// How the statistics of a merged network are set right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repair {
    /// Not at all: running statistics of batch norm are averaged like parameters.
    Off,
    /// Running statistics of batch norm are recomputed (the paper's); networks without batch norm stay as they are. Costs
    /// a pass over the samples that repair uses where they fit into memory at once, a few more where they do not.
    #[default]
    BatchNorm,
    /// As `BatchNorm` where there is batch norm; else REPAIR's correction of each hidden unit's mean and variance, which
    /// costs a pass over the samples for each layer. Layers without a bias are rescaled, and their means with them.
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
}

/// Statistics change by less than this share of a standard deviation: the next pass would see the same.
const SETTLED: f64 = 1e-4;

/// The same parameters with running statistics recomputed: mean and variance of each norm's input over all of `data`.
///
/// A norm's input depends on the statistics of the norms before it. With all samples in one batch, normalised by their
/// own statistics, one pass gives all of them; a part of the samples gives a start, and each pass over all of them makes
/// at least one more norm exact.
pub(crate) fn with_batch_statistics(network: &Network, params: &Params, data: &Dataset) -> Result<Params> {
    if params.buffers().is_empty() {
        return Ok(params.clone());
    }
    settled(network, params, data, network.most_samples(Memory::Forward)?)
}

/// The same with so many samples in a batch.
fn settled(network: &Network, params: &Params, data: &Dataset, at_once: usize) -> Result<Params> {
    if data.len() < 2 {
        let (value, requirement) = ("1 sample".to_owned(), "at least 2 samples: one has no variance");
        return Err(Error::Setting { setting: "data for batch norm", value, requirement });
    }
    let _guard = tch::no_grad_guard();
    let start = data.sample(at_once, 0)?;
    let mut repaired = params.with_buffers(statistics(network, params, &start, at_once, true)?);
    if data.len() <= at_once {
        return Ok(repaired);
    }
    for _ in 0..params.buffers().len() / 2 {
        let next = statistics(network, &repaired, data, at_once, false)?;
        let change = largest_change(repaired.buffers(), &next)?;
        repaired = params.with_buffers(next);
        if change < SETTLED {
            break;
        }
    }
    Ok(repaired)
}

/// Mean and variance of the input of each norm, in the order of the buffers, where the norms use the statistics of the
/// batch or the stored ones.
fn statistics(network: &Network, params: &Params, data: &Dataset, batch: usize, of_batch: bool) -> Result<Vec<Tensor>> {
    let pooled = observed(network, params, data, batch, Seen::NormInput, of_batch)?;
    let mut buffers = Vec::new();
    for (own, stored) in pooled.iter().zip(params.buffers().chunks(2)) {
        if let Some((mean, variance)) = own.mean_and_variance()? {
            let like = |value: Tensor| value.f_to_kind(stored[0].kind());
            buffers.extend([like(mean)?, like(variance)?]);
        }
    }
    Ok(buffers)
}

/// How far means move in standard deviations, or standard deviations in shares of themselves, at most.
fn largest_change(before: &[Tensor], after: &[Tensor]) -> Result<f64> {
    let mut largest: f64 = 0.0;
    for (before, after) in before.chunks(2).zip(after.chunks(2)) {
        // A channel that never varies stays so; its share would be one of rounding.
        let std = after[1].f_sqrt()?.f_clamp_min(1e-12)?;
        let means = before[0].f_sub(&after[0])?.f_div(&std)?;
        let stds = before[1].f_sqrt()?.f_div(&std)?.f_sub_scalar(1.0)?;
        for change in [means, stds] {
            let varies = change.f_where_self(&after[1].f_gt(1e-20)?, &change.f_zeros_like()?)?;
            largest = largest.max(varies.f_abs()?.f_max()?.f_double_value(&[])?);
        }
    }
    Ok(largest)
}

/// Pooled moments of everything of one kind that a pass over the data shows.
fn observed(
    network: &Network,
    params: &Params,
    data: &Dataset,
    batch: usize,
    wanted: Seen,
    batch_statistics: bool,
) -> Result<Vec<Pooled>> {
    let _guard = tch::no_grad_guard();
    let all: RefCell<Vec<Pooled>> = RefCell::default();
    for part in network.batches(data, batch, Order::Sequential)? {
        let (x, _) = part?;
        let look = |_: Seen, place: usize, tensor: &Tensor| -> Result<()> {
            let mut all = all.borrow_mut();
            if all.len() == place {
                all.push(Pooled::default());
            }
            all[place].add(tensor)
        };
        let observer = Some(Observer { kinds: &[wanted], look: &look });
        let pass = Pass { batch_statistics, observer, ..Pass::new(Mode::Eval) };
        let _ = network.run(params, &x, &pass)?; // what is wanted are the statistics
    }
    Ok(all.into_inner())
}

/// REPAIR's correction of every hidden linear and convolution layer, from the first to the last, towards the average of
/// the `ends`' moments.
pub(super) fn with_variance(
    network: &Network,
    merged: Params,
    ends: &[Vec<Moments>],
    shares: &[f64],
    data: &Dataset,
) -> Result<Params> {
    let mut tensors: Vec<Tensor> = merged.tensors().iter().map(Tensor::shallow_clone).collect();
    for (position, layer) in network.weight_layers()?.into_iter().enumerate().filter(|(_, layer)| layer.hidden) {
        // The layers before this one have changed, and with them what it gets.
        let now = merged.with(tensors.iter().map(Tensor::shallow_clone).collect());
        let own = layer_moments(network, &now, data)?.remove(position);
        let goal = |value: fn(&Moments) -> &Tensor| -> Result<Tensor> {
            let mut sum = value(&own).f_zeros_like()?;
            for (end, &share) in ends.iter().zip(shares) {
                sum = sum.f_add(&value(&end[position]).f_mul_scalar(share)?)?;
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
pub(crate) fn layer_moments(network: &Network, params: &Params, data: &Dataset) -> Result<Vec<Moments>> {
    let at_once = network.most_samples(Memory::Forward)?;
    let pooled = observed(network, params, data, at_once, Seen::WeightOutput, false)?;
    let mut moments = Vec::new();
    for own in &pooled {
        if let Some((mean, variance)) = own.mean_and_variance()? {
            moments.push(Moments { mean, std: variance.f_sqrt()? });
        }
    }
    Ok(moments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::blobs;
    use crate::network::{BatchNorm, Linear, Model, Relu};
    use tch::{Device, Kind};

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
        assert!(error("bn1.running_var", outputs.var_dim([0i64].as_slice(), false, false)) < 1e-5);
        assert_eq!(
            params.get("bn1.running_mean").unwrap().abs().max().double_value(&[]),
            0.0,
            "the input is unchanged"
        );
        Ok(())
    }

    #[test]
    fn layers_without_a_bias_vary_as_the_ends_and_their_means_are_rescaled_along() -> Result<()> {
        use crate::network::{Conv2d, Flatten};
        let network = Network::new(
            [1, 4, 4],
            [
                ("conv", Conv2d::new(1, 6, 3).without_bias().into()),
                ("relu", Relu.into()),
                ("flatten", Flatten.into()),
                ("head", Linear::new(24, 4).into()),
            ],
        )?;
        let data = blobs(0, Device::Cpu)?.train;
        let images = data.images().view([-1, 1, 4, 4]) + 0.5;
        let data = Dataset::new("images", images, data.labels().shallow_clone(), 4)?;
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
        let models = [model(0)?, model(1)?];
        let first = |params: &Params| Ok::<_, crate::Error>(layer_moments(&network, params, &data)?.remove(0));
        let merge = |repair| super::super::merge_weighted(&models, &[0.5, 0.5], repair, &data);
        let (plain, repaired) = (first(&merge(Repair::Off)?.params)?, first(&merge(Repair::Variance)?.params)?);
        let goal = (first(&models[0].params)?.std + first(&models[1].params)?.std) / 2.0;
        let furthest = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(furthest(&repaired.std, &goal) < 1e-6 && furthest(&plain.std, &goal) > 1e-3);
        assert!(furthest(&repaired.mean, &(&plain.mean * &goal / &plain.std)) < 1e-6);
        Ok(())
    }

    #[test]
    fn statistics_of_stacked_norms_depend_neither_on_the_order_nor_on_the_size_of_batches() -> Result<()> {
        let network = Network::convnet([1, 4, 4], 1.0, 4)?;
        let data = blobs(0, Device::Cpu)?.train;
        let (x, y) = (data.images().view([-1, 1, 4, 4]), data.labels());
        let bright = x + y.to_kind(Kind::Float).view([-1, 1, 1, 1]);
        let by_class = y.argsort(0, false);
        let sorted = bright.index_select(0, &by_class);
        let labelled = |images| Dataset::new("bright", images, data.labels().shallow_clone(), 4);
        let (mixed, sorted) = (labelled(bright)?, labelled(sorted)?);
        let params = network.init(0, Device::Cpu)?;
        let whole = settled(&network, &params, &mixed, 512)?;
        for (data, at_once) in [(&mixed, 100), (&sorted, 100), (&sorted, 37), (&sorted, 512), (&mixed, 1)] {
            let found = settled(&network, &params, data, at_once)?;
            for ((name, a), (_, b)) in found.iter().zip(whole.iter()) {
                let difference = ((a - b).abs() / (b.abs() + 1e-2)).max().double_value(&[]);
                assert!(difference < 1e-3, "{at_once} at once, {name}: {difference}");
            }
        }
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
            layer_moments(&network, &merged.params, &data)?,
            layer_moments(&network, ends[0], &data)?,
            layer_moments(&network, ends[1], &data)?,
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
        assert!(spread(&layer_moments(&network, &plain.params, &data)?) < 0.9 * spread(&own), "nothing to repair");
        Ok(())
    }
}
