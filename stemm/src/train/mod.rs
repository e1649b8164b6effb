//! Training: several models by one call, each from its own seed, with a history and checkpoints.

mod adam;
mod checkpoint;
mod history;

pub(crate) use adam::Adam;
pub use history::{Epoch, History};

use std::path::PathBuf;
use std::time::Instant;

use crate::data::{Dataset, Order, Splits};
use crate::error::{Error, Result};
use crate::evaluate::{Tally, loss_and_accuracy};
use crate::network::{Model, Network};
use crate::progress::{Progress, Task};
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
    /// Adam's step size.
    pub learning_rate: f64,
    /// Stop after this many epochs without a lower held-out loss, and return the best epoch; `None`: run all epochs.
    pub patience: Option<usize>,
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
            learning_rate: 1e-3,
            patience: None,
            checkpoints: None,
            progress: Progress::default(),
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

    /// Shows the history in the notebook.
    pub fn evcxr_display(&self) {
        crate::notebook::show_frame(&self.frame(), &format!("{} models", self.models.len()));
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
        check_classes(network, &data.train)?;
        let mut training = Training { models: Vec::new(), history: History::default() };
        let mut task = self.progress.task(
            format!("training {} models", seeds.len()),
            seeds.len() * self.epochs * data.train.batch_count(self.batch_size),
        );
        for (model, &seed) in seeds.iter().enumerate() {
            let state = self.train_one(network, data, model, seed, &mut task)?;
            let params = state.best.map_or_else(|| state.params.copied(), Ok)?;
            training.models.push(Model::new(network.clone(), params)?);
            training.history.epochs.extend(state.epochs.into_iter().map(|epoch| Epoch { model, ..epoch }));
        }
        Ok(training)
    }

    fn check(&self, seeds: &[u64]) -> Result<()> {
        positive("epochs", self.epochs)?;
        positive("batch_size", self.batch_size)?;
        positive("patience", self.patience.unwrap_or(1))?;
        check_learning_rate(self.learning_rate)?;
        if (1..seeds.len()).any(|index| seeds[..index].contains(&seeds[index])) {
            let requirement = "all different: equal seeds give equal models";
            return Err(Error::Setting { setting: "seeds", value: format!("{seeds:?}"), requirement });
        }
        if seeds.is_empty() {
            return Err(Error::TooFewModels { operation: "a training", found: 0, needed: 1 });
        }
        Ok(())
    }

    fn train_one(&self, network: &Network, data: &Splits, model: usize, seed: u64, task: &mut Task) -> Result<State> {
        let device = data.train.device();
        let name = (data.train.name(), data.train.len());
        let checkpoint = self.checkpoints.as_ref().map(|folder| Checkpoint::new(folder, self, network, name, seed));
        let resumed = match &checkpoint {
            Some(checkpoint) => checkpoint.load(device)?,
            None => None,
        };
        let mut state = match resumed {
            Some(state) => state,
            None => {
                let params = network.init(seed, device)?.leaves()?;
                let adam = Adam::new(&params, self.learning_rate)?;
                State { params, adam, epochs: Vec::new(), best: None }
            }
        };
        for _ in 0..state.epochs.len().min(self.epochs) * data.train.batch_count(self.batch_size) {
            task.step(|| "from the checkpoint".into());
        }
        while state.epochs.len() < self.epochs && !self.stopped_early(&state.epochs) {
            let start = Instant::now();
            let epoch = state.epochs.len();
            let order = Order::Shuffled { seed, epoch };
            let mut tally = Tally::default();
            for batch in data.train.batches(self.batch_size, order)? {
                let (x, y) = batch?;
                let (loss, gradients) = tally.backward(network, &state.params, &x, &y)?;
                state.adam.step(&state.params, &gradients, 1.0)?;
                task.step(|| format!("model {model}, epoch {}, loss {loss:.4}", epoch + 1));
            }
            let (held_out_loss, held_out_accuracy) = loss_and_accuracy(network, &state.params, &data.held_out)?;
            let lowest = state.epochs.iter().map(|row| row.held_out_loss).fold(f64::INFINITY, f64::min);
            if self.patience.is_some() && held_out_loss < lowest {
                state.best = Some(state.params.copied()?);
            }
            state.epochs.push(Epoch {
                model,
                seed,
                epoch: epoch + 1,
                train_loss: tally.mean_loss(),
                train_accuracy: tally.accuracy(),
                held_out_loss,
                held_out_accuracy,
                seconds: start.elapsed().as_secs_f64(),
            });
            if let Some(checkpoint) = &checkpoint {
                checkpoint.save(&state)?;
            }
        }
        Ok(state)
    }

    fn stopped_early(&self, epochs: &[Epoch]) -> bool {
        let best = epochs.iter().enumerate().min_by(|a, b| a.1.held_out_loss.total_cmp(&b.1.held_out_loss));
        match (self.patience, best) {
            (Some(patience), Some((best, _))) => epochs.len() - 1 - best >= patience,
            _ => false,
        }
    }
}

/// Labels must name outputs of the network; libtorch would abort on others on a GPU.
pub(crate) fn check_classes(network: &Network, data: &Dataset) -> Result<()> {
    let classes = network.output_shape().iter().product();
    if data.classes() > classes {
        let labels = Vec::<i64>::try_from(data.labels())?;
        if let Some(index) = labels.iter().position(|&label| label >= classes) {
            return Err(Error::LabelOutOfRange { index, label: labels[index], classes });
        }
    }
    Ok(())
}

/// A count that must not be zero.
pub(crate) fn positive(setting: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::Setting { setting, value: "0".into(), requirement: "at least 1" });
    }
    Ok(())
}

/// A step size that can be used.
pub(crate) fn check_learning_rate(value: f64) -> Result<()> {
    if !(value.is_finite() && value > 0.0) {
        let requirement = "positive and finite, such as 1e-3";
        return Err(Error::Setting { setting: "learning_rate", value: value.to_string(), requirement });
    }
    Ok(())
}
