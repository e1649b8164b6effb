//! STE-MM, the straight-through estimator for multiple models (Ito et al. 2025, Algorithm 1): permutations under which
//! the loss of random mixtures of all models is low.
//!
//! Each model `θ_i` but the reference `θ_0` has trainable weights `w_i`. In every step `θ_i` is matched to `w_i`, giving
//! `θ'_i = π(θ_i; P_i)`; the network at the mixture `θ_λ = λ_0 θ_0 + Σ λ_i θ'_i` gives a loss, whose gradient passes
//! straight through the matching to `w_i`. The gradient of `w_i` is therefore `λ_i ∇L(θ_λ)`: one backward pass serves
//! all models, and no graph through the matching exists.

use std::time::Instant;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use super::weight_matching::{Matcher, Report, Solver};
use super::{Aligner, Alignment, Permutations, Record};
use crate::data::{Order, Splits};
use crate::error::Result;
use crate::evaluate::{Tally, loss_and_accuracy};
use crate::merge::with_batch_statistics;
use crate::network::{Mode, Model, Network, Params, Pass, check_models};
use crate::progress::Progress;
use crate::rng::{Purpose, rng, step_seed};
use crate::train::{Choice, Optimiser, OptimiserState, check_classes, check_learning_rate, positive};

/// How the mixture weights `λ` of a step are drawn; they are at least 0 and sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug)]
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
    /// Seed of the order of samples and groups, and of the mixture weights.
    pub seed: u64,
    /// Where progress is shown.
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
            seed: 0,
            progress: Progress::default(),
        }
    }
}

impl Aligner for SteMm {
    fn name(&self) -> &str {
        "ste-mm"
    }

    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment> {
        check_models("STE-MM", models, 2)?;
        positive("epochs", self.epochs)?;
        positive("batch_size", self.batch_size)?;
        positive("max_sweeps", self.max_sweeps)?;
        check_learning_rate(self.learning_rate)?;
        check_classes(&models[0].network, &data.train)?;
        let start = Instant::now();
        let network = &models[0].network;
        let spec = network.permutation_spec();
        let reference = &models[0].params;
        let mut matchers: Vec<Matcher> = models[1..].iter().map(|model| Matcher::new(&spec, &model.params)).collect();
        let mut trainable = Vec::new();
        for _ in &matchers {
            let weights = reference.copied()?;
            let adam = OptimiserState::new(Optimiser::Adam, &weights)?;
            trainable.push((weights, adam));
        }
        let permutations_now = |matchers: &[Matcher]| {
            let mut all = vec![Permutations::identity(&spec)];
            all.extend(matchers.iter().map(|matcher| matcher.permutations().clone()));
            all
        };
        let mut mixing = rng(self.seed, Purpose::Mixing);
        let mut order = rng(self.seed, Purpose::SweepOrder);
        let mut history: Vec<Record> = Vec::new();
        let mut step = 0;
        let mut chosen = permutations_now(&matchers);
        let mut lowest = f64::INFINITY;
        let mut converged = true;
        let mut task = self
            .progress
            .task(format!("STE-MM, {} models", models.len()), self.epochs * data.train.batch_count(self.batch_size));
        for epoch in 0..self.epochs {
            let epoch_start = Instant::now();
            let mut report = Report::default();
            let mut tally = Tally::default();
            for batch in data.train.batches(self.batch_size, Order::Shuffled { seed: self.seed, epoch })? {
                let (x, y) = batch?;
                let mut sets = vec![reference.clone()];
                for (matcher, (weights, _)) in matchers.iter_mut().zip(&trainable) {
                    let _guard = tch::no_grad_guard();
                    let fit = matcher.fit(weights, self.max_sweeps, self.solver, &mut order)?;
                    converged &= fit.sweeps < self.max_sweeps;
                    report.add(&fit);
                    sets.push(matcher.permuted()?);
                }
                let lambda = self.mixing.draw(sets.len(), &mut mixing);
                let pass = Pass::new(Mode::Train { seed: step_seed(self.seed, step) });
                let gradients = mixture_gradients(network, &sets, &lambda, (&x, &y), &pass, &mut tally)?;
                for ((weights, adam), &lambda) in trainable.iter_mut().zip(&lambda[1..]) {
                    adam.step(weights, &gradients, lambda, self.learning_rate)?;
                }
                step += 1;
                task.step(|| format!("epoch {}, loss of the mixtures {:.4}", epoch + 1, tally.mean_loss()));
            }
            let now = permutations_now(&matchers);
            let permuted: Vec<Params> =
                now.iter().zip(models).map(|(own, model)| own.apply(&spec, &model.params)).collect::<Result<_>>()?;
            let midpoint = vec![1.0 / permuted.len() as f64; permuted.len()];
            let merged = Params::weighted_sum(&permuted.iter().collect::<Vec<_>>(), &midpoint)?;
            let merged = with_batch_statistics(network, &merged, &data.train)?;
            let (merged_loss, merged_accuracy) = loss_and_accuracy(network, &merged, &data.held_out)?;
            if self.choice == Choice::LastStep || merged_loss < lowest {
                (lowest, chosen) = (merged_loss, now);
            }
            history.push(Record {
                round: epoch + 1,
                mixture_loss: Some(tally.mean_loss()),
                mixture_accuracy: Some(tally.accuracy()),
                merged_loss: Some(merged_loss),
                merged_accuracy: Some(merged_accuracy),
                seconds: epoch_start.elapsed().as_secs_f64(),
                ..Record::sweep(epoch + 1, f64::NAN, &report)
            });
        }
        Ok(Alignment {
            method: self.name().to_owned(),
            permutations: chosen,
            history,
            seconds: start.elapsed().as_secs_f64(),
            converged,
        })
    }
}

/// Gradient of the mean cross-entropy at `θ_λ = Σ λ_i sets[i]`, in training mode; the batch is added to the tally.
fn mixture_gradients(
    network: &Network,
    sets: &[Params],
    lambda: &[f64],
    batch: (&Tensor, &Tensor),
    pass: &Pass,
    tally: &mut Tally,
) -> Result<Vec<Tensor>> {
    let mixture = {
        let _guard = tch::no_grad_guard();
        Params::weighted_sum(&sets.iter().collect::<Vec<_>>(), lambda)?
    };
    let (_, gradients) = tally.backward(network, &mixture.leaves()?, batch, pass, 0.0)?;
    Ok(gradients)
}

impl Mixing {
    /// Draws `n` weights.
    fn draw(self, n: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
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
    use super::*;
    use tch::{Device, Kind};

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
        let ours = mixture_gradients(&network, &sets, &lambda, (&x, &y), &pass, &mut Tally::default())?;
        for i in 1..3 {
            for (w, gradient) in trainable[i].tensors().iter().zip(&ours) {
                let error = (w.grad() - gradient * lambda[i]).abs().max().double_value(&[]);
                assert!(error < 1e-6, "model {i}: {error}");
            }
        }
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
