//! Training: several models by one call, each from its own seed, with a history and checkpoints.

mod checkpoint;
mod course;
mod fork;
mod history;
mod optimiser;
mod run;
mod schedule;

pub(crate) use fork::Fork;
pub use history::{Epoch, History};
pub use optimiser::Optimiser;
pub(crate) use optimiser::OptimiserState;
pub use run::TrainingRun;
pub use schedule::Schedule;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind};

use crate::data::Splits;
use crate::error::{Error, Result};
use crate::network::{Model, Network};
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;

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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
    /// are those of one by one but for rounding. `None`: on a GPU, which a small one leaves idle, as many as its memory
    /// holds, and one by one on a CPU, where that is faster.
    #[serde(skip)]
    pub at_once: Option<usize>,
    /// Devices that share the seeds and train at the same time, such as `cuda_devices()`; the models come back to the device
    /// of the data. Empty: the device of the data.
    #[serde(skip)]
    pub devices: Vec<Device>,
    /// Folder for one checkpoint a seed, written after each epoch; a training that finds one goes on from it.
    #[serde(skip)]
    pub checkpoints: Option<PathBuf>,
    /// Where progress is shown.
    #[serde(skip)]
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
            devices: Vec::new(),
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
    /// For what is not written where it is the default.
    pub(crate) fn is_full(&self) -> bool {
        *self == Precision::F32
    }

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
        self.start(network, data, seeds)?.train()
    }

    /// The same training as a value, which goes on where it was after an interrupt.
    ///
    /// # Errors
    /// As [`Trainer::train`], before anything is trained.
    pub fn start(&self, network: &Network, data: &Splits, seeds: &[u64]) -> Result<TrainingRun> {
        self.check(seeds)?;
        let origins = seeds.iter().map(|_| None).collect();
        TrainingRun::new(self, network, data, seeds, origins)
    }

    pub(crate) fn check(&self, seeds: &[u64]) -> Result<()> {
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
