//! Trainings that do not begin with the initial values of their seeds: from given parameters, or from a step of another one.

use super::checkpoint::State;
use super::course::{Course, Snapshot};
use super::{OptimiserState, Trainer, TrainingRun};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::file;
use crate::network::{Model, Network};

impl Trainer {
    /// A training in which every seed begins with a given model, such as one that was trained on other data; the seeds differ
    /// in the order of the samples, in augmentation and dropout.
    ///
    /// # Errors
    /// As [`Trainer::start`].
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let data = blobs(0, Device::Cpu)?;
    /// let trainer = Trainer { epochs: 2, batch_size: 64, ..Trainer::default() };
    /// let model = trainer.train(&Network::mlp(&[16, 8, 4])?, &data, &[0])?.models.remove(0);
    /// let tuned = trainer.start_from(&model, &data, &[1, 2, 3])?.train()?;
    /// assert_eq!(tuned.models.len(), 3);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn start_from(&self, model: &Model, data: &Splits, seeds: &[u64]) -> Result<TrainingRun> {
        self.check(seeds)?;
        model.network.check_params(&model.params)?;
        let params = model.params.to_device(data.train.device())?.leaves()?;
        let optimiser = OptimiserState::new(self.optimiser, &params)?;
        let label = match self.checkpoints {
            Some(_) => format!("model {}", &file::digest_of(params.all())?[..16]),
            None => String::new(),
        };
        let start = Snapshot { label, state: State { params, optimiser, best: None }, epochs: Vec::new() };
        let origins = seeds.iter().map(|_| Ok(Some(start.copied()?))).collect::<Result<_>>()?;
        TrainingRun::new(self, &model.network, data, seeds, origins)
    }

    /// A training that follows `seed` for so many steps, its optimiser included, and goes on from there once for each of
    /// `seeds`: they differ in the order of the samples, in augmentation and dropout from there on (Frankle et al. 2020). The
    /// epoch in which they part is in the history with what the parted models did of it.
    ///
    /// The common part is trained now. With [`Choice::BestEpoch`](super::Choice::BestEpoch) the result may be that of an epoch before the fork, which all share.
    ///
    /// # Errors
    /// As [`Trainer::train`]; a step after the last one.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let data = blobs(0, Device::Cpu)?;
    /// let trainer = Trainer { epochs: 2, batch_size: 64, ..Trainer::default() };
    /// let twins = trainer.fork(&Network::mlp(&[16, 8, 4])?, &data, 0, 5, &[1, 2])?.train()?;
    /// assert_eq!(twins.models.len(), 2);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn fork(&self, network: &Network, data: &Splits, seed: u64, step: usize, seeds: &[u64]) -> Result<TrainingRun> {
        self.check(seeds)?;
        self.forks(network, data, &[Fork { seed, step, seeds: seeds.to_vec() }], "step")
    }

    /// All forks as one training, in their order; those of one seed share their common part. `setting` is what the caller calls steps.
    pub(crate) fn forks(
        &self,
        network: &Network,
        data: &Splits,
        forks: &[Fork],
        setting: &'static str,
    ) -> Result<TrainingRun> {
        network.check_splits(data)?;
        let total = self.epochs.saturating_mul(data.train.batch_count(self.batch_size));
        if let Some(fork) = forks.iter().find(|fork| fork.step > total) {
            let requirement = "at most the steps of the training: `epochs` times its batches";
            return Err(Error::Setting { setting, value: fork.step.to_string(), requirement });
        }
        // In turn from the earliest step on: a fork of the same seed goes on from the one before it.
        let mut order: Vec<usize> = (0..forks.len()).collect();
        order.sort_by_key(|&index| (forks[index].seed, forks[index].step));
        let mut steps = 0;
        for pair in order.chunk_by(|&a, &b| forks[a].seed == forks[b].seed) {
            steps += pair.last().map_or(0, |&index| forks[index].step);
        }
        let mut task = self.progress.task("training to the forks", steps);
        let mut trunk: Option<Course> = None;
        let mut snapshots: Vec<Option<Snapshot>> = forks.iter().map(|_| None).collect();
        let without_checkpoints = Trainer { checkpoints: None, ..self.clone() };
        for index in order {
            let Fork { seed, step, .. } = forks[index];
            let mut course = match trunk.take() {
                Some(course) if course.seed == seed => course,
                _ => Course::new(0, seed, None),
            };
            course.start(&without_checkpoints, network, data, "")?;
            while course.steps() < step {
                self.epoch(network, data, &mut [&mut course], step, &mut task)?;
            }
            snapshots[index] = course.snapshot(format!("step {step} of seed {seed}"), data.train.device())?;
            trunk = Some(course);
        }
        task.finish();
        let (mut seeds, mut origins) = (Vec::new(), Vec::new());
        for (fork, snapshot) in forks.iter().zip(snapshots.into_iter().flatten()) {
            for &seed in &fork.seeds {
                seeds.push(seed);
                origins.push(Some(snapshot.copied()?));
            }
        }
        TrainingRun::new(self, network, data, &seeds, origins)
    }
}

/// Where a training parts, and the seeds that go on from there.
#[derive(Clone, Debug)]
pub(crate) struct Fork {
    pub seed: u64,
    pub step: usize,
    pub seeds: Vec<u64>,
}
