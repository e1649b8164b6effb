//! The search of STE-MM on its way: what changes from step to step, and how it is kept between epochs.

use std::time::Instant;

use rand_chacha::ChaCha8Rng;

use super::SteMm;
use crate::align::matcher::{Matcher, Report};
use crate::align::{Found, Permutation, Permutations, Record};
use crate::data::{Dataset, Order, Splits};
use crate::error::{Error, Result};
use crate::evaluate::{Tally, backward, loss_and_accuracy};
use crate::file::{self, Checkpoint, Metadata, Resumed, prefixed, reserved};
use crate::merge::with_batch_statistics;
use crate::network::{Mode, Model, Network, Params, Pass, PermutationSpec};
use crate::progress::Task;
use crate::rng::{Purpose, rng, step_seed};
use crate::train::{Choice, Optimiser, OptimiserState};
use crate::workers::Workers;

/// Everything that changes.
pub(super) struct Search<'a> {
    settings: &'a SteMm,
    spec: &'a PermutationSpec,
    network: &'a Network,
    reference: &'a Params,
    workers: Workers,
    followers: Vec<Follower<'a>>,
    mixing: ChaCha8Rng,
    step: usize,
    history: Vec<Record>,
    /// The permutations of the epoch that is the best so far, and its held-out loss.
    chosen: Vec<Permutations>,
    lowest: f64,
    converged: bool,
    /// Time so far, that before an interrupt included.
    pub seconds: f64,
}

/// A model that is matched to trainable weights.
pub(super) struct Follower<'a> {
    pub matcher: Matcher<'a>,
    pub weights: Params,
    pub optimiser: OptimiserState,
    pub order: ChaCha8Rng,
}

impl<'a> Search<'a> {
    pub fn new(settings: &'a SteMm, spec: &'a PermutationSpec, models: &'a [Model]) -> Result<Search<'a>> {
        let reference = &models[0].params;
        let followers = (1..models.len()).map(|index| {
            let weights = reference.without_buffers().copied()?;
            let SteMm { solver, precision, max_sweeps, seed, .. } = *settings;
            Ok(Follower {
                matcher: Matcher::new(spec, &models[index].params, solver, precision, max_sweeps),
                optimiser: OptimiserState::new(Optimiser::Adam, &weights)?,
                weights,
                order: rng(seed, Purpose::SweepOrder(index)),
            })
        });
        Ok(Search {
            settings,
            spec,
            network: &models[0].network,
            reference,
            workers: Workers::new(reference.device())?,
            followers: followers.collect::<Result<_>>()?,
            mixing: rng(settings.seed, Purpose::Mixing),
            step: 0,
            history: Vec::new(),
            chosen: Vec::new(),
            lowest: f64::INFINITY,
            converged: true,
            seconds: 0.0,
        })
    }

    /// Epochs that are done.
    pub fn epochs(&self) -> usize {
        self.history.len()
    }

    pub fn epoch(&mut self, data: &Splits, for_statistics: &Dataset, task: &mut Task) -> Result<()> {
        let SteMm { seed, max_sweeps, batch_size, learning_rate, choice, .. } = *self.settings;
        let (start, epoch, models) = (Instant::now(), self.epochs(), self.followers.len() + 1);
        // What solvers remember is not in a checkpoint.
        self.followers.iter_mut().for_each(|follower| follower.matcher.forget());
        let (mut report, mut tally) = (Report::default(), Tally::default());
        for batch in self.network.batches(&data.train, batch_size, Order::Shuffled { seed, epoch })? {
            let (x, y) = batch?;
            let fits = self.workers.map(&mut self.followers, |follower| {
                let _guard = tch::no_grad_guard();
                follower.matcher.fit(&follower.weights, &mut follower.order)
            })?;
            for fit in &fits {
                self.converged &= fit.sweeps < max_sweeps;
                report.add(fit);
            }
            let lambda = self.settings.mixing.draw(models, &mut self.mixing);
            let pass = Pass::new(Mode::Train { seed: step_seed(seed, self.step) });
            let mixture = mixture(self.reference, &self.followers, &lambda)?.into_leaves()?;
            let gradients = backward(&mut tally, self.network, &mixture, (&x, &y), &pass, 0.0)?;
            for (follower, &lambda) in self.followers.iter_mut().zip(&lambda[1..]) {
                follower.optimiser.step(&follower.weights, &gradients, lambda, learning_rate)?;
            }
            self.step += 1;
            task.step(|| format!("epoch {}, loss of the mixtures {:.4}", epoch + 1, tally.mean_loss(0)))?;
        }
        tally.check_finite()?;
        let merged = mixture(self.reference, &self.followers, &vec![1.0 / models as f64; models])?;
        let merged = with_batch_statistics(self.network, &merged, for_statistics)?;
        let (merged_loss, merged_accuracy) = loss_and_accuracy(self.network, &merged, &data.held_out)?;
        if choice == Choice::LastStep || merged_loss < self.lowest {
            self.lowest = merged_loss;
            self.chosen = vec![Permutations::identity(self.spec)];
            self.chosen.extend(self.followers.iter().map(|follower| follower.matcher.permutations().clone()));
        }
        self.history.push(Record {
            mixture_loss: Some(tally.mean_loss(0)),
            mixture_accuracy: Some(tally.accuracy(0)),
            merged_loss: Some(merged_loss),
            merged_accuracy: Some(merged_accuracy),
            seconds: start.elapsed().as_secs_f64(),
            ..Record::sweep(epoch + 1, f64::NAN, &report)
        });
        Ok(())
    }

    /// The permutations of the chosen epoch.
    pub fn found(self) -> Result<Found> {
        if self.chosen.is_empty() {
            let hint = "use a smaller `learning_rate`, or check that the models' own losses are finite";
            return Err(Error::NonFinite {
                tensor: "the held-out loss of the merged network in every epoch".into(),
                hint,
            });
        }
        Ok(Found { permutations: self.chosen, history: self.history, converged: self.converged })
    }

    pub fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let mut tensors = Vec::new();
        for (index, follower) in self.followers.iter().enumerate() {
            tensors.extend(prefixed(&reserved(&format!("weights{index}")), &follower.weights));
            tensors.extend(follower.optimiser.saved(&format!("model{index}_")));
        }
        let current = self.followers.iter().map(|follower| lists(follower.matcher.permutations()));
        let mut metadata = Metadata::from([
            ("permutations".to_owned(), file::to_json(&current.collect::<Vec<_>>())),
            ("chosen".to_owned(), file::to_json(&self.chosen.iter().map(lists).collect::<Vec<_>>())),
            ("mixing".to_owned(), file::place_of(&self.mixing)),
            ("steps".to_owned(), file::to_json(&self.step)),
            ("history".to_owned(), file::to_json(&self.history)),
            ("lowest".to_owned(), file::to_json(&self.lowest.to_string())),
            ("converged".to_owned(), file::to_json(&self.converged)),
            ("seconds".to_owned(), file::to_json(&self.seconds)),
        ]);
        let orders = self.followers.iter().enumerate();
        metadata.extend(orders.map(|(index, own)| (format!("order{index}"), file::place_of(&own.order))));
        checkpoint.save(&tensors, metadata)
    }

    /// Goes to where a checkpoint is, if there is one.
    pub fn resume(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let device = self.reference.device();
        checkpoint.load(device, |stored| self.read(checkpoint, stored)).map(|_| ())
    }

    fn read(&mut self, checkpoint: &Checkpoint, mut stored: Resumed) -> Result<()> {
        let history: Vec<Record> = stored.value("history")?;
        checkpoint.not_ahead(history.len(), "epochs", self.settings.epochs)?;
        let corrupt = |reason: String| Error::Corrupt {
            path: checkpoint.path().into(),
            format: "checkpoint",
            reason,
            hint: file::CHECKPOINT_HINT,
        };
        let sets = |lists: Vec<Vec<Vec<i64>>>, count: usize| -> Result<Vec<Permutations>> {
            let sets = lists.into_iter().map(|own| own.into_iter().map(Permutation::new).collect::<Result<Vec<_>>>());
            let sets: Vec<Permutations> = sets.map(|own| own.map(Permutations)).collect::<Result<_>>()?;
            sets.iter().try_for_each(|own| own.check(self.spec))?;
            match sets.len() == count || sets.is_empty() {
                true => Ok(sets),
                false => Err(corrupt(format!("it has permutations of {} models", sets.len()))),
            }
        };
        let current = sets(stored.value("permutations")?, self.followers.len())?;
        let chosen = sets(stored.value("chosen")?, self.followers.len() + 1)?;
        if current.len() != self.followers.len() {
            return Err(corrupt("it is of another number of models".into()));
        }
        let step = stored.value("steps")?;
        for (index, (follower, own)) in self.followers.iter_mut().zip(current).enumerate() {
            let weights = stored.params(&reserved(&format!("weights{index}")), &follower.weights)?;
            let optimiser = OptimiserState::new(Optimiser::Adam, &weights)?;
            follower.optimiser = optimiser.resumed(&format!("model{index}_"), step, &mut stored)?;
            follower.weights = weights;
            follower.matcher.set_permutations(own);
            stored.resume(&format!("order{index}"), &mut follower.order)?;
        }
        stored.resume("mixing", &mut self.mixing)?;
        let lowest: String = stored.value("lowest")?;
        self.lowest = lowest.parse().map_err(|_| corrupt(format!("its lowest loss is {lowest}")))?;
        (self.step, self.history, self.chosen) = (step, history, chosen);
        (self.converged, self.seconds) = (stored.value("converged")?, stored.value("seconds")?);
        Ok(())
    }
}

fn lists(own: &Permutations) -> Vec<Vec<i64>> {
    own.0.iter().map(|permutation| permutation.as_slice().to_vec()).collect()
}

/// `θ_λ = λ_0 θ_0 + Σ λ_i π(θ_i; P_i)`, without a graph.
pub(super) fn mixture(reference: &Params, followers: &[Follower], lambda: &[f64]) -> Result<Params> {
    let _guard = tch::no_grad_guard();
    let mut sum = reference.scaled(lambda[0])?;
    for (follower, &lambda) in followers.iter().zip(&lambda[1..]) {
        follower.matcher.add_permuted(&mut sum, lambda)?;
    }
    Ok(sum)
}
