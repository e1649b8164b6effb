//! STE-MM, the straight-through estimator for multiple models (Ito et al. 2025, Algorithm 1): permutations under which
//! the loss of random mixtures of all models is low.
//!
//! Each model `θ_i` but the reference `θ_0` has trainable weights `w_i`. In every step `θ_i` is matched to `w_i`, giving
//! `θ'_i = π(θ_i; P_i)`; the network at the mixture `θ_λ = λ_0 θ_0 + Σ λ_i θ'_i` gives a loss, whose gradient passes
//! straight through the matching to `w_i`. The gradient of `w_i` is therefore `λ_i ∇L(θ_λ)`: one backward pass serves
//! all models, and no graph through the matching exists.

mod search;

use std::path::PathBuf;
use std::time::Instant;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Aligner, Alignment, Method, Solver, checkpoint_of};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::merge::REPAIR_SAMPLES;
use crate::network::{Model, check_models};
use crate::progress::Progress;
use crate::train::{Choice, Precision, check_learning_rate, positive, within};
use search::Search;

/// How the mixture weights `λ` of a step are drawn; they are at least 0 and sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mixing {
    /// Independent uniforms divided by their sum: the paper's experiments. Not uniform on the simplex.
    Uniforms,
    /// Uniform on the simplex: Dirichlet(1, ..., 1).
    Dirichlet,
    /// Always `1/n`.
    Midpoint,
}

/// Settings of STE-MM; the defaults are the paper's, but for the choice of the epoch on held-out data.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 32, 4])?;
/// let training = Trainer { epochs: 3, batch_size: 64, ..Trainer::default() }.train(&network, &data, &[0, 1, 2])?;
/// let alignment = SteMm { epochs: 2, ..SteMm::default() }.align(&training.models, &data)?;
/// let merged = alignment.merge(&training.models, &data.train)?;
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SteMm {
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// Adam's step size for the trainable weights.
    pub learning_rate: f64,
    /// How the mixture weights are drawn.
    pub mixing: Mixing,
    /// Which permutations are the result.
    pub choice: Choice,
    /// At most this many sweeps over the groups a step and model.
    pub max_sweeps: usize,
    /// How the assignment problems are started.
    pub solver: Solver,
    /// Number format of the gain matrices' products; weights, moments and the pass of the batch stay in f32.
    pub precision: Precision,
    /// Seed of the order of samples and groups, and of the mixture weights.
    pub seed: u64,
    /// Folder for a checkpoint, written after each epoch; an alignment that finds one of its own goes on from it.
    #[serde(skip)]
    pub checkpoints: Option<PathBuf>,
    /// Where progress is shown.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for SteMm {
    fn default() -> Self {
        SteMm {
            epochs: 10,
            batch_size: 256,
            learning_rate: 1e-3,
            mixing: Mixing::Uniforms,
            choice: Choice::BestEpoch,
            max_sweeps: 100,
            solver: Solver::WarmStarted,
            precision: Precision::F32,
            seed: 0,
            checkpoints: None,
            progress: Progress::default(),
        }
    }
}

impl Aligner for SteMm {
    fn name(&self) -> &str {
        "ste-mm"
    }

    fn check(&self) -> Result<()> {
        within("epochs", self.epochs, 1)?;
        positive("batch_size", self.batch_size)?;
        positive("max_sweeps", self.max_sweeps)?;
        check_learning_rate(self.learning_rate)
    }

    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment> {
        check_models("STE-MM", models, 2)?;
        self.check()?;
        models[0].network.check_splits(data)?;
        let start = Instant::now();
        let spec = models[0].network.permutation_spec();
        let checkpoint = checkpoint_of(self.checkpoints.as_deref(), "ste-mm", (self, "epochs"), models, data)?;
        let mut search = Search::new(self, &spec, models)?;
        if let Some(checkpoint) = &checkpoint {
            search.resume(checkpoint)?;
        }
        let earlier = search.seconds;
        // Enough to choose an epoch by; `merge` recomputes statistics on all that it is given.
        let for_statistics = data.train.sample(REPAIR_SAMPLES, self.seed)?;
        let steps = data.train.batch_count(self.batch_size);
        let mut task =
            self.progress.task(format!("STE-MM, {} models", models.len()), self.epochs.saturating_mul(steps));
        task.skip(search.epochs() * steps);
        while search.epochs() < self.epochs {
            let diverged = |error: Error| error.diverged("use a smaller `learning_rate` of STE-MM");
            search.epoch(data, &for_statistics, &mut task).map_err(diverged)?;
            search.seconds = earlier + start.elapsed().as_secs_f64();
            if let Some(checkpoint) = &checkpoint {
                search.save(checkpoint)?;
            }
        }
        let found = search.found()?.alignment(self, start)?;
        Ok(Alignment { seconds: earlier + found.seconds, ..found })
    }

    fn with(&self, seed: u64, progress: Progress) -> Method {
        SteMm { seed, progress, ..self.clone() }.into()
    }
}

impl Mixing {
    /// Draws `n` weights.
    pub(crate) fn draw(self, n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
        let raw: Vec<f64> = match self {
            Mixing::Uniforms => (0..n).map(|_| rng.random::<f64>()).collect(),
            // Exponentials divided by their sum are Dirichlet(1); 1 - u avoids the logarithm of 0.
            Mixing::Dirichlet => (0..n).map(|_| -(1.0 - rng.random::<f64>()).ln()).collect(),
            Mixing::Midpoint => vec![1.0; n],
        };
        let sum: f64 = raw.iter().sum();
        if sum > 0.0 { raw.iter().map(|value| value / sum).collect() } else { vec![1.0 / n as f64; n] }
    }
}

#[cfg(test)]
mod tests {
    use super::search::{Follower, mixture};
    use super::*;
    use crate::align::matcher::Matcher;
    use crate::evaluate::{Tally, backward};
    use crate::network::{Mode, Network, Params, Pass};
    use crate::rng::{Purpose, rng};
    use crate::train::{Optimiser, OptimiserState};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn gradient_of_each_trainable_set_is_lambda_times_the_gradient_at_the_mixture() -> Result<()> {
        // The oracle spells the straight-through estimator out in autograd: s = w + (θ' - w).detach().
        let network = Network::mlp(&[3, 5, 2])?;
        let sets: Vec<Params> = (0..3).map(|seed| network.init(seed, Device::Cpu)).collect::<Result<_>>()?;
        let trainable: Vec<Params> =
            (7..10).map(|seed| network.init(seed, Device::Cpu)?.leaves()).collect::<Result<_>>()?;
        let (x, y) = (Tensor::rand([6, 3], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[0i64, 1, 0, 1, 1, 0]));
        let lambda = [0.2, 0.5, 0.3];
        let mixed: Vec<Tensor> = (0..sets[0].tensors().len())
            .map(|k| {
                let straight = |i: usize| {
                    let (w, value) = (&trainable[i].tensors()[k], &sets[i].tensors()[k]);
                    w + (value - w).detach()
                };
                &sets[0].tensors()[k] * lambda[0] + straight(1) * lambda[1] + straight(2) * lambda[2]
            })
            .collect();
        let pass = Pass::new(Mode::Train { seed: 0 });
        let logits = network.run(&sets[0].with(mixed), &x, &pass)?;
        crate::evaluate::cross_entropy(&logits, &y, 0.0)?.backward();
        let spec = network.permutation_spec();
        let follower = |set: &Params| -> Result<Follower> {
            Ok(Follower {
                matcher: Matcher::new(&spec, set, Solver::Plain, Precision::F32, 1), // not fitted: the identity
                optimiser: OptimiserState::new(Optimiser::Adam, set)?,
                weights: set.copied()?,
                order: rng(0, Purpose::SweepOrder(0)),
            })
        };
        let followers = [follower(&sets[1])?, follower(&sets[2])?];
        let ours = mixture(&sets[0], &followers, &lambda)?.leaves()?;
        let ours = backward(&mut Tally::default(), &network, &ours, (&x, &y), &pass, 0.0)?;
        for i in 1..3 {
            for (w, gradient) in trainable[i].tensors().iter().zip(&ours) {
                let error = (w.grad() - gradient * lambda[i]).abs().max().double_value(&[]);
                assert!(error < 1e-6, "model {i}: {error}");
            }
        }
        Ok(())
    }

    #[test]
    fn the_best_epoch_is_that_of_the_lowest_held_out_loss_and_the_last_step_the_last() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 12, 4])?;
        let trainer = crate::train::Trainer { epochs: 6, batch_size: 64, ..Default::default() };
        let models = trainer.train(&network, &data, &[0, 1])?.models;
        let run = |epochs, seed, choice| {
            SteMm { epochs, seed, choice, batch_size: 64, learning_rate: 0.05, ..SteMm::default() }
                .align(&models, &data)
        };
        let mut differing = 0;
        for seed in 0..6 {
            let best = run(6, seed, Choice::BestEpoch)?;
            let losses: Vec<f64> = best.history.iter().filter_map(|record| record.merged_loss).collect();
            let epoch = (0..6).min_by(|&a, &b| losses[a].total_cmp(&losses[b])).unwrap_or(0);
            assert_eq!(best.permutations, run(epoch + 1, seed, Choice::LastStep)?.permutations, "seed {seed}");
            let last = run(6, seed, Choice::LastStep)?;
            let merged = last.merge(&models, &data.train)?.evaluate(&data.held_out)?.loss;
            assert!((merged - losses[5]).abs() < 1e-6, "seed {seed}: {merged} {losses:?}");
            differing += usize::from(best.permutations != last.permutations);
        }
        assert!(differing > 0, "the last epoch is always the best: nothing is tested");
        Ok(())
    }

    #[test]
    fn the_held_out_loss_of_an_epoch_is_that_of_the_merge_with_its_own_statistics() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?;
        let layers = |units: i64| -> Vec<(&str, crate::network::Layer)> {
            use crate::network::{BatchNorm, Linear, Relu};
            vec![
                ("fc", Linear::new(16, units).into()),
                ("norm", BatchNorm::new(units).into()),
                ("relu", Relu.into()),
                ("head", Linear::new(units, 4).into()),
            ]
        };
        let network = Network::new([16], layers(12))?;
        let trainer = crate::train::Trainer { epochs: 4, batch_size: 64, ..Default::default() };
        let models = trainer.train(&network, &data, &[0, 1, 2])?.models;
        let aligned = SteMm { epochs: 1, choice: Choice::LastStep, ..SteMm::default() }.align(&models, &data)?;
        let merged = aligned.merge(&models, &data.train)?.evaluate(&data.held_out)?;
        let found = aligned.history[0].merged_loss.unwrap_or(f64::NAN);
        assert!((found - merged.loss).abs() < 1e-5, "{found} instead of {}", merged.loss);
        assert_eq!(aligned.history[0].merged_accuracy, Some(merged.accuracy));
        Ok(())
    }

    #[test]
    fn mixture_weights_are_a_partition_of_one_with_the_stated_moments() {
        let mut rng = rng(1, Purpose::Mixing);
        for (mixing, variance) in
            [(Mixing::Uniforms, None), (Mixing::Dirichlet, Some(1.0 / 18.0)), (Mixing::Midpoint, Some(0.0))]
        {
            let draws: Vec<Vec<f64>> = (0..20_000).map(|_| mixing.draw(3, &mut rng)).collect();
            assert!(draws.iter().all(|draw| (draw.iter().sum::<f64>() - 1.0).abs() < 1e-12));
            let mean = draws.iter().map(|draw| draw[1]).sum::<f64>() / draws.len() as f64;
            assert!((mean - 1.0 / 3.0).abs() < 0.01, "{mixing:?}: {mean}");
            if let Some(variance) = variance {
                let found = draws.iter().map(|draw| (draw[1] - mean).powi(2)).sum::<f64>() / draws.len() as f64;
                assert!((found - variance).abs() < 0.003, "{mixing:?}: {found}");
            }
        }
    }
}
