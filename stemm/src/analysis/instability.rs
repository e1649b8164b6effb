//! Instability analysis (Frankle et al. 2020): from which step of a training on do two continuations of it, which see the samples in
//! other orders, end in one basin? The barrier between the two against the step in which they part.

use polars::prelude::DataFrame;
use rand::Rng;

use super::growth::mean_and_band;
use super::{Curve, Interpolation, distinct};
use crate::chart::{Chart, Lines, Series};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::Network;
use crate::notebook::{Bundle, Show};
use crate::rng::{Purpose, rng};
use crate::train::{Choice, Fork, Trainer};

/// Settings of an instability analysis.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let analysis = Instability {
///     trainer: Trainer { epochs: 4, batch_size: 64, ..Trainer::default() },
///     steps: vec![0, 10, 30],
///     seeds: vec![0, 1],
///     ..Instability::default()
/// };
/// let twins = analysis.run(&Network::mlp(&[16, 12, 4])?, &data)?;
/// assert_eq!(twins.rows.len(), 2 * 3);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Instability {
    /// How the models are trained; after every fork to its last step, whatever `choice` and `patience` say, since the best epoch may lie
    /// before the fork. With checkpoints an interrupted analysis goes on.
    pub trainer: Trainer,
    /// Steps after which a training parts in two; 0 is after the initialisation.
    pub steps: Vec<usize>,
    /// Seeds of the trainings that part, which share nothing: what bands are taken over.
    pub seeds: Vec<u64>,
    /// The walk between the two models of a fork.
    pub walk: Interpolation,
}

impl Default for Instability {
    fn default() -> Self {
        Instability {
            trainer: Trainer::default(),
            steps: vec![0, 10, 30, 100, 300],
            seeds: vec![0, 1, 2],
            walk: Interpolation::default(),
        }
    }
}

/// The barriers of all forks.
#[derive(Clone, Debug)]
pub struct Twins {
    /// Rows by seed, then by step.
    pub rows: Vec<TwinsRow>,
}

/// The two models of one fork.
#[derive(Clone, Debug)]
pub struct TwinsRow {
    /// Seed of the training that parted.
    pub seed: u64,
    /// Step after which it parted.
    pub step: usize,
    /// The same in passes over the training data.
    pub epoch: f64,
    /// The line between its two ends.
    pub curve: Curve,
}

impl Instability {
    /// Trains each seed up to each of the steps and from there on twice, to the end.
    ///
    /// # Errors
    /// No steps or no seeds, one of them twice, a step after the end, and as [`Trainer::train`].
    pub fn run(&self, network: &Network, data: &Splits) -> Result<Twins> {
        self.trainer.check(&self.seeds)?;
        let (mut steps, given) = (self.steps.clone(), self.steps.len());
        steps.sort_unstable();
        steps.dedup();
        if steps.is_empty() || steps.len() < given {
            let (value, requirement) = (format!("{:?}", self.steps), "at least one step, and none twice");
            return Err(Error::Setting { setting: "steps", value, requirement });
        }
        let fork = |seed: u64, step: usize| {
            let mut seeds = rng(seed, Purpose::Fork(step));
            Fork { seed, step, seeds: vec![seeds.next_u64(), seeds.next_u64()] }
        };
        let all = self.seeds.iter().flat_map(|&seed| steps.iter().map(move |&step| (seed, step)));
        let forks: Vec<Fork> = all.map(|(seed, step)| fork(seed, step)).collect();
        // The best epoch may lie before the fork, where both are one.
        let trainer = Trainer { choice: Choice::LastStep, patience: None, ..self.trainer.clone() };
        let models = trainer.forks(network, data, &forks, "steps")?.train()?.models;
        let an_epoch = data.train.batch_count(self.trainer.batch_size) as f64;
        let rows = forks.iter().zip(models.chunks(2)).map(|(fork, pair)| {
            let curve = self.walk.curve(pair, data)?;
            Ok(TwinsRow { seed: fork.seed, step: fork.step, epoch: fork.step as f64 / an_epoch, curve })
        });
        Ok(Twins { rows: rows.collect::<Result<_>>()? })
    }
}

impl Twins {
    /// One row a fork; losses and barriers in nats.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        let end = |row: &TwinsRow, loss: bool| {
            let ends = [&row.curve.points[0], &row.curve.points[row.curve.points.len() - 1]];
            ends.map(|point| if loss { point.loss } else { point.accuracy }).iter().sum::<f64>() / 2.0
        };
        frame([
            column("seed", rows.iter().map(|row| row.seed)),
            column("step", rows.iter().map(|row| row.step as u64)),
            column("epoch", rows.iter().map(|row| row.epoch)),
            column("loss_barrier_nats", rows.iter().map(|row| row.curve.loss_barrier())),
            column("accuracy_barrier", rows.iter().map(|row| row.curve.accuracy_barrier())),
            column("models_loss_nats", rows.iter().map(|row| end(row, true))),
            column("models_accuracy", rows.iter().map(|row| end(row, false))),
        ])
    }

    /// Loss barrier against the step of the fork: mean over the seeds, with a 95 % confidence band where there are several.
    pub fn chart(&self) -> Chart {
        let (mut points, mut band) = (Vec::new(), Vec::new());
        for step in distinct(self.rows.iter().map(|row| row.step)) {
            let own = self.rows.iter().filter(|row| row.step == step);
            let (mean, ends) = mean_and_band(&own.map(|row| row.curve.loss_barrier()).collect::<Vec<_>>());
            points.push((step as f64, mean));
            band.push(ends);
        }
        let title = "Two continuations of one training";
        let series = Series::new("barrier between them", points).band(band);
        Lines::new(title, "step at which they part", "loss barrier (nats)").series([series]).into()
    }
}

impl Show for Twins {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), "losses and barriers in nats")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::blobs;
    use crate::evaluate::loss_and_accuracy;
    use tch::Device;

    #[test]
    fn a_row_holds_the_ends_and_the_barrier_of_its_fork_and_its_line_the_mean_over_seeds() -> Result<()> {
        let data = blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 12, 4])?;
        let trainer = Trainer { epochs: 3, batch_size: 64, ..Trainer::default() };
        let total = 3 * data.train.batch_count(64);
        let settings = Instability { trainer, steps: vec![total, 0, 7], seeds: vec![3, 4], ..Instability::default() };
        let twins = settings.run(&network, &data)?;
        let order: Vec<(u64, usize)> = twins.rows.iter().map(|row| (row.seed, row.step)).collect();
        assert_eq!(order, [(3, 0), (3, 7), (3, total), (4, 0), (4, 7), (4, total)]);
        // Parted at the end, both are the one training.
        let plain = settings.trainer.train(&network, &data, &[4])?.models.remove(0);
        let (loss, _) = loss_and_accuracy(&network, &plain.params, &data.test)?;
        let last = &twins.rows[5].curve;
        assert!(last.points.iter().all(|point| (point.loss - loss).abs() < 1e-6), "{last:?}, {loss}");
        let barriers: Vec<f64> = twins.rows.iter().map(|row| row.curve.loss_barrier()).collect();
        let apart = |row: usize| {
            let [first, last] = [0, twins.rows[row].curve.points.len() - 1];
            (twins.rows[row].curve.points[first].loss - twins.rows[row].curve.points[last].loss).abs()
        };
        assert!(apart(0) > 1e-6 && apart(1) > 1e-6 && apart(5) == 0.0, "{twins:?}");
        // Steps so large that the best epoch is not the last: both might be the model of an epoch before the fork.
        let rough = Trainer { epochs: 6, learning_rate: 0.3, ..settings.trainer.clone() };
        let best = Trainer { choice: Choice::BestEpoch, patience: Some(1), ..rough.clone() };
        let losses = |trainer: &Trainer| -> Result<f64> {
            Ok(trainer.train(&network, &data, &[3])?.models[0].evaluate(&data.test)?.loss)
        };
        assert_ne!(losses(&rough)?, losses(&best)?, "the last epoch is the best: nothing is tested");
        let rows = |trainer: Trainer| {
            Ok::<_, Error>(format!(
                "{:?}",
                Instability { trainer, steps: vec![0, 7], ..settings.clone() }.run(&network, &data)?.rows
            ))
        };
        assert_eq!(rows(best)?, rows(rough)?);
        let frame = twins.frame();
        let column = |name: &str| frame.column(name).unwrap().f64().unwrap().into_no_null_iter().collect::<Vec<_>>();
        assert_eq!(column("loss_barrier_nats"), barriers);
        assert!((column("models_loss_nats")[5] - loss).abs() < 1e-6);
        assert!((column("epoch")[1] - 7.0 / data.train.batch_count(64) as f64).abs() < 1e-12);
        let svg = twins.chart().svg()?;
        assert!(svg.contains("step at which they part"));
        for steps in [vec![], vec![1, 1], vec![total + 1]] {
            let bad = Instability { steps, ..settings.clone() }.run(&network, &data);
            assert!(matches!(bad, Err(Error::Setting { .. })));
        }
        Ok(())
    }
}
