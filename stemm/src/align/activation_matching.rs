//! Activation matching: units that do the same on data belong together (Li et al. 2016; Ainsworth et al. 2023, section 3.1).
//!
//! For every group the gain matrix `G[i, j] = Σ cov(a_i, b_j)`, or the correlation, over all layers that write its units;
//! the outputs of a model do not depend on how other groups are permuted, so that one pass over the data gives all
//! matrices, and each group is one assignment problem. Needs no labels.

use std::time::Instant;

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::matcher::Report;
use super::{Aligner, Alignment, Found, Method, Permutation, Permutations, Record, assignment_of, pairs};
use crate::covariance::Covariance;
use crate::data::{Dataset, Splits};
use crate::error::{Error, Result};
use crate::network::{AxisSegment, Memory, Model, PermutationSpec, check_models};
use crate::progress::Progress;
use crate::rng::{Purpose, rng};
use crate::train::{Precision, positive};

/// What two units have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Similarity {
    /// Pearson's correlation; a unit that never varies has none with any.
    Correlation,
    /// The covariance, to which units that vary much give more.
    Covariance,
}

/// What each model is matched to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MatchTo {
    /// The first model.
    First,
    /// The mean of the others' outputs, each model in turn, until nothing changes. The same as `First` for two models.
    Mean,
}

/// Settings of activation matching.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 32, 4])?;
/// let models = Trainer { epochs: 3, batch_size: 64, ..Trainer::default() }.train(&network, &data, &[0, 1, 2])?.models;
/// let alignment = ActivationMatching::default().align(&models, &data)?;
/// let merged = alignment.merge(&models, &data.train)?;
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ActivationMatching {
    /// What two units have in common.
    pub similarity: Similarity,
    /// What each model is matched to.
    pub to: MatchTo,
    /// At most so many samples of the training data, drawn at random.
    pub samples: usize,
    /// At most this many passes over the models, for [`MatchTo::Mean`]; the data are read once.
    pub max_sweeps: usize,
    /// Number format of the covariances' products; the networks' passes are in f32.
    #[serde(skip_serializing_if = "Precision::is_full")] // tables of before it was there keep their hashes
    pub precision: Precision,
    /// Seed of the samples and of the order of the models.
    pub seed: u64,
    /// Where progress is shown.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for ActivationMatching {
    fn default() -> Self {
        ActivationMatching {
            similarity: Similarity::Correlation,
            to: MatchTo::First,
            samples: 10_000,
            max_sweeps: 100,
            precision: Precision::F32,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

impl Aligner for ActivationMatching {
    fn name(&self) -> &str {
        match (self.to, self.similarity) {
            (MatchTo::First, Similarity::Correlation) => "activation matching",
            (MatchTo::First, Similarity::Covariance) => "activation matching, covariance",
            (MatchTo::Mean, Similarity::Correlation) => "activation matching to the mean",
            (MatchTo::Mean, Similarity::Covariance) => "activation matching to the mean, covariance",
        }
    }

    fn check(&self) -> Result<()> {
        positive("samples", self.samples)?;
        positive("max_sweeps", self.max_sweeps)
    }

    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment> {
        check_models("activation matching", models, 2)?;
        self.check()?;
        models[0].network.check_splits(data)?;
        let _guard = tch::no_grad_guard();
        let start = Instant::now();
        let spec = models[0].network.permutation_spec();
        let outputs = self.observe(models, &data.train.sample(self.samples, self.seed)?)?;
        let start_from = vec![Permutations::identity(&spec); models.len()];
        self.ascend(&spec, &outputs, start_from)?.alignment(self, start)
    }

    fn with(&self, seed: u64, progress: Progress) -> Method {
        ActivationMatching { seed, progress, ..self.clone() }.into()
    }
}

/// What is known of the outputs of one layer of all models.
struct LayerOutputs {
    axis: Vec<AxisSegment>,
    together: Covariance,
}

impl ActivationMatching {
    /// The pairs of models whose outputs are compared; a pair of a model with itself would tell nothing.
    fn pairs(&self, models: usize) -> Vec<(usize, usize)> {
        match self.to {
            MatchTo::First => (1..models).map(|model| (0, model)).collect(),
            MatchTo::Mean => pairs(models).collect(),
        }
    }

    /// One pass over the data: moments of every hidden layer's outputs.
    fn observe(&self, models: &[Model], data: &Dataset) -> Result<Vec<LayerOutputs>> {
        let network = &models[0].network;
        let hidden = |axis: &[AxisSegment]| axis.iter().any(|segment| segment.group.is_some());
        let layers: Vec<_> = network.unit_outputs()?.into_iter().filter(|layer| hidden(&layer.axis)).collect();
        let of = |axis: &[AxisSegment]| LayerOutputs {
            axis: axis.to_vec(),
            together: Covariance::new(self.pairs(models.len()), self.precision),
        };
        let mut all: Vec<LayerOutputs> = layers.iter().map(|layer| of(&layer.axis)).collect();
        // The outputs of all layers of all models are there at a time, as in a backward pass.
        let largest = LARGEST_BATCH.min(network.most_samples(Memory::SecondOrder)? / models.len()).max(1);
        let batches = data.len().div_ceil(largest);
        let mut task = self.progress.task(format!("{}, {} models", self.name(), models.len()), batches);
        for batch in network.chunks(data, Memory::Forward, largest)? {
            let (x, _) = batch?;
            let each = models.iter().map(|model| network.outputs(&model.params, &x, &layers));
            let each: Vec<Vec<Tensor>> = each.collect::<Result<_>>()?;
            for (layer, own) in all.iter_mut().enumerate() {
                let sets: Vec<Tensor> = each.iter().map(|outputs| outputs[layer].shallow_clone()).collect();
                own.together.add(&sets)?;
            }
            task.step(|| "outputs".to_owned())?;
        }
        task.finish();
        Ok(all)
    }

    /// Matches the models one after the other, until nothing changes: at once where all are matched to the first.
    fn ascend(
        &self,
        spec: &PermutationSpec,
        layers: &[LayerOutputs],
        mut permutations: Vec<Permutations>,
    ) -> Result<Found> {
        let mut order = rng(self.seed, Purpose::SweepOrder(0));
        let to_first = self.to == MatchTo::First || permutations.len() == 2;
        let mut models: Vec<usize> = (usize::from(to_first)..permutations.len()).collect();
        let (mut history, mut converged) = (Vec::new(), false);
        while !converged && history.len() < self.max_sweeps {
            let begin = Instant::now();
            models.shuffle(&mut order);
            let (mut report, mut objective) = (Report { sweeps: 1, ..Report::default() }, 0.0);
            for &model in &models {
                for (group, of_group) in spec.groups().iter().enumerate() {
                    crate::progress::check()?;
                    let gain = self.gain(layers, &permutations, model, (group, of_group.size as i64))?;
                    let candidate = assignment_of(&gain)?;
                    let now = &permutations[model].0[group];
                    let (old, new) = (total(&gain, now)?, total(&gain, &candidate)?);
                    report.solved_groups += 1;
                    // On a tie the old assignment stays, so that the ascent ends.
                    let better = candidate != *now && new - old > ROUNDING * new.abs();
                    objective += if better { new } else { old };
                    if better {
                        permutations[model].0[group] = candidate;
                        report.moved_groups += 1;
                    }
                }
            }
            report.assignment = begin.elapsed();
            converged = to_first || report.moved_groups == 0;
            history.push(Record::sweep(history.len() + 1, objective, &report));
        }
        Ok(Found { permutations, history, converged })
    }

    /// `[units, units]`: what unit `j` of a model has in common with unit `i` of what the model is matched to.
    fn gain(
        &self,
        layers: &[LayerOutputs],
        permutations: &[Permutations],
        model: usize,
        (group, units): (usize, i64),
    ) -> Result<Tensor> {
        let mut gain = None;
        let others: Vec<usize> = match self.to {
            MatchTo::First => vec![0],
            MatchTo::Mean => (0..permutations.len()).filter(|&other| other != model).collect(),
        };
        for LayerOutputs { axis, together } in layers {
            let mut offset = 0;
            for &AxisSegment { group: own, units, block } in axis {
                let run = Run { offset, units, block };
                offset += units * block;
                if own == Some(group) {
                    let of_run = self.of_run(together, &run, &others, model, |other| &permutations[other].0[group])?;
                    gain = Some(match gain {
                        None => of_run,
                        Some(gain) => of_run.f_add(&gain)?,
                    });
                }
            }
        }
        // A group that no layer writes stays as it is.
        Ok(gain.map_or_else(|| Tensor::f_zeros([units; 2], (Kind::Double, Device::Cpu)), Ok)?)
    }

    /// The share of one run of a layer's channels: the mean of the others' outputs, permuted, beside the model's own.
    fn of_run<'a>(
        &self,
        together: &Covariance,
        run: &Run,
        others: &[usize],
        model: usize,
        permutation: impl Fn(usize) -> &'a Permutation,
    ) -> Result<Tensor> {
        let missing = || Error::Empty { what: "the data for activation matching".into() };
        // Rows of model `a`, columns of model `b`; pairs are stored once.
        let covariance = |a: usize, b: usize| -> Result<Tensor> {
            let place = together.place((a.min(b), a.max(b))).ok_or_else(missing)?;
            let stored = together.covariance(place)?.ok_or_else(missing)?;
            run.units_of(&if a < b { stored } else { stored.f_tr()? })
        };
        let std = |set: usize| -> Result<Tensor> { run.rows_of(&together.std(set)?.ok_or_else(missing)?) };
        let permuted = |rows: &Tensor, other: usize| -> Result<Tensor> {
            Ok(rows.f_index_select(0, &permutation(other).on(rows.device())?)?)
        };
        let mut sum: Option<Tensor> = None; // [units, block, units, block]
        for &other in others {
            let rows = permuted(&covariance(other, model)?, other)?;
            sum = Some(match sum {
                None => rows,
                Some(sum) => sum.f_add(&rows)?,
            });
        }
        let sum = sum.ok_or_else(missing)?.f_div_scalar(others.len() as f64)?;
        let scaled = match self.similarity {
            Similarity::Covariance => sum,
            Similarity::Correlation => {
                // The variance of the mean of the others, from all pairs of them.
                let mut variance = std(model)?.f_zeros_like()?;
                for &a in others {
                    variance = variance.f_add(&permuted(&std(a)?.f_square()?, a)?)?;
                    for &b in others.iter().filter(|&&b| b > a) {
                        let both = permuted(&covariance(a, b)?, a)?;
                        let index = permutation(b).on(both.device())?;
                        let both = both.f_index_select(2, &index)?.f_diagonal(0, 0, 2)?.f_diagonal(0, 0, 1)?;
                        variance = variance.f_add(&both.f_mul_scalar(2.0)?)?;
                    }
                }
                let target = variance.f_clamp_min(0.0)?.f_sqrt()?.f_div_scalar(others.len() as f64)?;
                let scale = target.f_unsqueeze(-1)?.f_unsqueeze(-1)?.f_mul(&std(model)?)?;
                let correlation = sum.f_div(&scale)?.f_clamp(-1.0, 1.0)?;
                correlation.f_zeros_like()?.f_where_self(&scale.f_eq(0.0)?, &correlation)?
            }
        };
        // A unit's neighbouring entries, if it has several, are compared entry by entry.
        Ok(scaled.f_diagonal(0, 1, 3)?.f_sum_dim_intlist([-1i64].as_slice(), false, Kind::Double)?)
    }
}

/// Units of a group in a row of channels.
struct Run {
    offset: i64,
    units: i64,
    block: i64,
}

impl Run {
    /// `[channels]` as `[units, block]`.
    fn rows_of(&self, values: &Tensor) -> Result<Tensor> {
        let own = values.f_narrow(0, self.offset, self.units * self.block)?;
        Ok(own.f_reshape([self.units, self.block])?)
    }

    /// `[channels, channels]` as `[units, block, units, block]`.
    fn units_of(&self, matrix: &Tensor) -> Result<Tensor> {
        let len = self.units * self.block;
        let own = matrix.f_narrow(0, self.offset, len)?.f_narrow(1, self.offset, len)?;
        Ok(own.f_reshape([self.units, self.block, self.units, self.block])?)
    }
}

/// Samples that pass the networks at a time: the outputs of an MLP stay in the processor's cache until they are multiplied.
const LARGEST_BATCH: usize = 1_000;

/// A relative gain below this is rounding, and no progress.
const ROUNDING: f64 = 1e-9;

/// `Σ gain[i, p(i)]`.
fn total(gain: &Tensor, permutation: &Permutation) -> Result<f64> {
    let index = permutation.on(gain.device())?.f_unsqueeze(1)?;
    Ok(gain.f_gather(1, &index, false)?.f_sum(Kind::Double)?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;

    #[test]
    fn gains_are_those_of_the_averaged_outputs_of_the_others() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 6, 4])?;
        let models = (0..4).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
        let models = models.collect::<Result<Vec<_>>>()?;
        let turn =
            |by: i64| Permutations(vec![Permutation::new((0..6).map(|unit| (unit + by) % 6).collect()).unwrap()]);
        let permutations: Vec<Permutations> = (0..4).map(turn).collect();
        let spec = network.permutation_spec();
        let x = data.train.images();
        let outputs = |model: usize| -> Result<Tensor> {
            let params = permutations[model].apply(&spec, &models[model].params)?.to_kind(Kind::Double)?;
            Ok(x.to_kind(Kind::Double).linear(&params.tensors()[0], Some(&params.tensors()[1])).tr())
        };
        let mean = (outputs(0)? + outputs(1)? + outputs(3)?) / 3.0;
        let own = models[2].params.to_kind(Kind::Double)?;
        let own = x.to_kind(Kind::Double).linear(&own.tensors()[0], Some(&own.tensors()[1])).tr();
        let both = Tensor::cat(&[mean, own], 0);
        let corner = |all: Tensor| all.narrow(0, 0, 6).narrow(1, 6, 6);
        for (similarity, exact) in [
            (Similarity::Correlation, corner(both.corrcoef())),
            (Similarity::Covariance, corner(both.cov(0, None::<Tensor>, None::<Tensor>))),
        ] {
            let method = ActivationMatching { similarity, to: MatchTo::Mean, ..ActivationMatching::default() };
            let observed = method.observe(&models, &data.train)?;
            let gain = method.gain(&observed, &permutations, 2, (0, 6))?;
            let error = (gain - &exact).abs().max().double_value(&[]) / exact.abs().max().double_value(&[]);
            assert!(error < 1e-4, "{similarity:?}: {error}");
        }
        Ok(())
    }

    #[test]
    fn outputs_that_overflow_are_an_error() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 6, 6, 4])?;
        let good = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
        let huge = Model::new(network.clone(), network.init(1, Device::Cpu)?.scaled(1e25)?)?;
        assert!(ActivationMatching::default().align(&[good, huge], &data).is_err());
        Ok(())
    }
}
