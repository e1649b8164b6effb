//! Training: several models by one call, each from its own seed, with a history and checkpoints.

mod checkpoint;
mod history;
mod optimiser;
mod schedule;

pub use history::{Epoch, History};
pub use optimiser::Optimiser;
pub(crate) use optimiser::OptimiserState;
pub use schedule::Schedule;

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::data::{Order, Splits};
use crate::error::{Error, Result};
use crate::evaluate::{Tally, backward, beside, by_loss, losses_and_accuracies};
use crate::network::{MOMENTUM, Model, Network, Params, Pass};
use crate::notebook::{Bundle, Show};
use crate::progress::{Progress, Task};
use crate::rng::step_seed;
use checkpoint::{Checkpoint, State};

/// Settings of a training; the defaults are the paper's for MNIST and Fashion-MNIST, with 10 epochs.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 32, 4])?;
/// let trainer = Trainer { epochs: 5, batch_size: 64, ..Trainer::default() };
/// let training = trainer.train(&network, &data, &[0, 1, 2])?;
/// assert_eq!(training.models.len(), 3);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trainer {
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// The rule by which gradients change parameters.
    pub optimiser: Optimiser,
    /// Step size of the optimiser, the highest one of the schedule.
    pub learning_rate: f64,
    /// How the learning rate changes.
    pub schedule: Schedule,
    /// Share of each label that is spread over all classes, in 0..1.
    pub label_smoothing: f64,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Which weights are the result.
    pub choice: Choice,
    /// Stop after this many epochs without a lower held-out loss; `None`: run all epochs.
    pub patience: Option<usize>,
    /// How many models are trained side by side, as one batch of products (`bmm`, grouped convolutions); their results
    /// are those of one by one but for rounding. `None`: all on a GPU, which a small one leaves idle, and one by
    /// one on a CPU, where that is faster.
    pub at_once: Option<usize>,
    /// Folder for one checkpoint a seed, written after each epoch; a training that finds one goes on from it.
    pub checkpoints: Option<PathBuf>,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Trainer {
    fn default() -> Self {
        Trainer {
            epochs: 10,
            batch_size: 512,
            optimiser: Optimiser::Adam,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            label_smoothing: 0.0,
            precision: Precision::F32,
            choice: Choice::LastStep,
            patience: None,
            at_once: None,
            checkpoints: None,
            progress: Progress::default(),
        }
    }
}

/// Which state of a training or an alignment is its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// That after the epoch with the lowest loss on held-out data (for STE-MM, of the merged network).
    BestEpoch,
    /// That after the last step.
    LastStep,
}

/// Number format of matrix products; weights, sums and normalisation stay in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// 32 bits: the same bits on one machine.
    F32,
    /// bfloat16, for GPUs: each factor has three significant digits.
    Bf16,
}

impl Precision {
    fn kind(self) -> Kind {
        match self {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        }
    }
}

/// Trained models and how they came about.
#[derive(Clone, Debug)]
pub struct Training {
    /// One model a seed, in the order given.
    pub models: Vec<Model>,
    /// Losses and accuracies by epoch.
    pub history: History,
}

impl Training {
    /// The history as a frame.
    pub fn frame(&self) -> polars::prelude::DataFrame {
        self.history.frame()
    }

    /// The history as a chart.
    pub fn chart(&self) -> crate::chart::Chart {
        self.history.chart()
    }

    /// Seconds that the epochs of a model took.
    pub fn seconds(&self, model: usize) -> f64 {
        self.history.epochs.iter().filter(|row| row.model == model).map(|row| row.seconds).sum()
    }
}

impl Show for Training {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &format!("{} models", self.models.len()))
    }
}

impl Trainer {
    /// Trains one model for each seed on `data.train`, on the device of the data.
    ///
    /// The seed sets the initial weights and the order of the samples; the same seed gives the same bits on one CPU
    /// machine, also when the training was interrupted and went on from its checkpoint.
    ///
    /// # Errors
    /// Settings out of range, data that do not fit the network, a loss that is not finite, a checkpoint of another
    /// training.
    pub fn train(&self, network: &Network, data: &Splits, seeds: &[u64]) -> Result<Training> {
        self.check(seeds)?;
        network.check_splits(data)?;
        let digest = self.checkpoints.as_ref().map(|_| data.training_digest()).transpose()?;
        let mut training = Training { models: Vec::new(), history: History::default() };
        let mut task = self.progress.task(
            format!("training {} models", seeds.len()),
            seeds.len().saturating_mul(self.epochs).saturating_mul(data.train.batch_count(self.batch_size)),
        );
        let on_gpu = data.train.device().is_cuda();
        let at_once = self.at_once.unwrap_or(if on_gpu { seeds.len() } else { 1 });
        for seeds in seeds.chunks(at_once) {
            let first = training.models.len();
            let runs = seeds.iter().enumerate().map(|(index, &seed)| {
                self.start(network, data, digest.as_deref().unwrap_or_default(), first + index, seed)
            });
            let mut runs: Vec<Run> = runs.collect::<Result<_>>()?;
            self.train_to_end(network, data, &mut runs, &mut task)?;
            for Run { model, seed, state, .. } in runs {
                if self.choice == Choice::BestEpoch && state.best.is_none() {
                    let tensor = format!("the held-out loss of the model with seed {seed}, in every epoch,");
                    return Err(Error::NonFinite { tensor, hint: crate::error::RETRAIN });
                }
                let params = state.best.map_or_else(|| state.params.copied(), Ok)?;
                training.models.push(Model::new(network.clone(), params)?);
                training.history.epochs.extend(state.epochs.into_iter().map(|epoch| Epoch { model, ..epoch }));
            }
        }
        task.finish();
        Ok(training)
    }

    fn check(&self, seeds: &[u64]) -> Result<()> {
        positive("epochs", self.epochs)?;
        positive("batch_size", self.batch_size)?;
        positive("patience", self.patience.unwrap_or(1))?;
        positive("at_once", self.at_once.unwrap_or(1))?;
        check_learning_rate(self.learning_rate)?;
        self.optimiser.check()?;
        self.schedule.check(self.epochs)?;
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let (value, requirement) = (self.label_smoothing.to_string(), "at least 0 and below 1");
            return Err(Error::Setting { setting: "label_smoothing", value, requirement });
        }
        if (1..seeds.len()).any(|index| seeds[..index].contains(&seeds[index])) {
            let requirement = "all different: equal seeds give equal models";
            return Err(Error::Setting { setting: "seeds", value: format!("{seeds:?}"), requirement });
        }
        if seeds.is_empty() {
            return Err(Error::TooFewModels { operation: "a training", found: 0, needed: 1 });
        }
        Ok(())
    }

    /// A model with its initial values, or where its checkpoint left it.
    fn start<'a>(&self, network: &'a Network, data: &Splits, digest: &str, model: usize, seed: u64) -> Result<Run<'a>> {
        let device = data.train.device();
        let folder = self.checkpoints.as_ref();
        let checkpoint = folder.map(|folder| Checkpoint::new(folder, self, network, digest.to_owned(), seed));
        let resumed = match &checkpoint {
            Some(checkpoint) => checkpoint.load(device)?,
            None => None,
        };
        let state = match resumed {
            Some(state) => state,
            None => {
                let params = network.init(seed, device)?.leaves()?;
                let optimiser = OptimiserState::new(self.optimiser, &params)?;
                State { params, optimiser, epochs: Vec::new(), best: None }
            }
        };
        Ok(Run { model, seed, state, checkpoint })
    }

    /// Trains models to their end, side by side wherever they are equally far.
    fn train_to_end(&self, network: &Network, data: &Splits, runs: &mut [Run], task: &mut Task) -> Result<()> {
        let steps = data.train.batch_count(self.batch_size);
        task.skip(runs.iter().map(|run| run.state.epochs.len().min(self.epochs) * steps).sum());
        loop {
            let unfinished = |run: &&mut Run| {
                let epochs = &run.state.epochs;
                epochs.len() < self.epochs && !self.stopped_early(epochs)
            };
            let mut runs: Vec<&mut Run> = runs.iter_mut().filter(unfinished).collect();
            let Some(epoch) = runs.iter().map(|run| run.state.epochs.len()).min() else { return Ok(()) };
            runs.retain(|run| run.state.epochs.len() == epoch);
            self.epoch(network, data, &mut runs, epoch, task)?;
        }
    }

    /// One epoch of models side by side.
    fn epoch(
        &self,
        network: &Network,
        data: &Splits,
        runs: &mut [&mut Run],
        epoch: usize,
        task: &mut Task,
    ) -> Result<()> {
        let start = Instant::now();
        let models = runs.len();
        let params = Params::stacked(&runs.iter().map(|run| &run.state.params).collect::<Vec<_>>())?.into_leaves()?;
        let mut optimiser = OptimiserState::stacked(&runs.iter().map(|run| &run.state.optimiser).collect::<Vec<_>>())?;
        let shuffled = runs.iter().map(|run| Order::Shuffled { seed: run.seed, epoch });
        let batches = shuffled.map(|order| network.batches(&data.train, self.batch_size, order));
        let mut batches = batches.collect::<Result<Vec<_>>>()?;
        let steps = data.train.batch_count(self.batch_size);
        let mut tallies = Tally::each(models);
        let mut learning_rate = 0.0;
        let mut norms = Tensor::f_zeros([models as i64], (Kind::Double, data.train.device()))?;
        for _ in 0..steps {
            let batch = batches.iter_mut().filter_map(Iterator::next).collect::<Result<Vec<_>>>()?;
            let (x, y) = beside(&batch)?;
            let step = optimiser.steps;
            let seeds = runs.iter().map(|run| step_seed(run.seed, step)).collect();
            let (momentum, precision) = (Some(MOMENTUM), self.precision.kind());
            let pass = Pass { momentum, precision, ..Pass::training(seeds) };
            let gradients = backward(&mut tallies, network, &params, (&x, &y), &pass, self.label_smoothing)?;
            norms = norms.f_add(&self::norms(&gradients, models)?)?;
            learning_rate = self.learning_rate * self.schedule.factor(step, steps, self.epochs);
            optimiser.step(&params, &gradients, 1.0, learning_rate)?;
            for (run, tally) in runs.iter().zip(&tallies) {
                task.step(|| format!("model {}, epoch {}, loss {:.4}", run.model, epoch + 1, tally.mean_loss()))?;
            }
        }
        let held_out = losses_and_accuracies(network, &params, models, &data.held_out)?;
        let norms = Vec::<f64>::try_from(norms)?;
        // What belongs to each model goes back to it.
        let parts = params.unstacked(models)?.into_iter().zip(optimiser.unstacked(models)?);
        let seconds = start.elapsed().as_secs_f64() / models as f64;
        for (index, (run, (params, optimiser))) in runs.iter_mut().zip(parts).enumerate() {
            let state = &mut run.state;
            (state.params, state.optimiser) = (params.into_leaves()?, optimiser);
            let (held_out_loss, held_out_accuracy) = held_out[index];
            let lowest = state.epochs.iter().map(|row| row.held_out_loss).fold(f64::INFINITY, f64::min);
            if self.choice == Choice::BestEpoch && held_out_loss < lowest {
                state.best = Some(state.params.copied()?);
            }
            state.epochs.push(Epoch {
                model: run.model,
                seed: run.seed,
                epoch: epoch + 1,
                train_loss: tallies[index].mean_loss(),
                train_accuracy: tallies[index].accuracy(),
                held_out_loss,
                held_out_accuracy,
                learning_rate,
                gradient_norm: norms[index] / steps as f64,
                seconds,
            });
            if let Some(checkpoint) = &run.checkpoint {
                checkpoint.save(&run.state)?;
            }
        }
        Ok(())
    }

    fn stopped_early(&self, epochs: &[Epoch]) -> bool {
        let best = epochs.iter().enumerate().min_by(|a, b| by_loss(a.1.held_out_loss, b.1.held_out_loss));
        match (self.patience, best) {
            (Some(patience), Some((best, _))) => epochs.len() - 1 - best >= patience,
            _ => false,
        }
    }
}

/// One model on its way.
struct Run<'a> {
    model: usize,
    seed: u64,
    state: State,
    checkpoint: Option<Checkpoint<'a>>,
}

/// Euclidean norm of each model's gradients over all tensors, left on their device: reading it each step would stall a
/// GPU.
fn norms(gradients: &[Tensor], models: usize) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let norms = gradients
        .iter()
        .map(|gradient| Ok(gradient.f_reshape([models as i64, -1])?.f_norm_scalaropt_dim(2, [1i64], false)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&norms, 0)?.f_norm_scalaropt_dim(2, [0i64], false)?.f_to_kind(Kind::Double)?)
}

/// A count that must not be zero.
pub(crate) fn positive(setting: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::Setting { setting, value: "0".into(), requirement: "at least 1" });
    }
    Ok(())
}

/// Places, samples or steps that a setting can ask for, at most: lists of that length fit into memory.
const MOST: usize = 1 << 24;

/// A count of at least `least`, and no more than a list can hold.
pub(crate) fn within(setting: &'static str, value: usize, least: usize) -> Result<()> {
    if (least..=MOST).contains(&value) {
        return Ok(());
    }
    let requirement = if least < 2 { "at least 1 and at most 16777216" } else { "at least 2 and at most 16777216" };
    Err(Error::Setting { setting, value: value.to_string(), requirement })
}

/// A step size that can be used.
pub(crate) fn check_learning_rate(value: f64) -> Result<()> {
    if !(value.is_finite() && value > 0.0) {
        let requirement = "positive and finite, such as 1e-3";
        return Err(Error::Setting { setting: "learning_rate", value: value.to_string(), requirement });
    }
    Ok(())
}
