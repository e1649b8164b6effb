//! What happened during a training: one row an epoch and model.

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use crate::chart::{Chart, Lines, Series};
use crate::frame::{column, frame};

/// One epoch of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Position of the model in the list of seeds.
    pub model: usize,
    /// Seed of the model.
    pub seed: u64,
    /// Epochs done, from 1.
    pub epoch: usize,
    /// Mean loss over the epoch's batches while it trained, in nats.
    #[serde(with = "crate::file::any_float")]
    pub train_loss: f64,
    /// Share of right answers over the same batches.
    #[serde(with = "crate::file::any_float")]
    pub train_accuracy: f64,
    /// Loss on the held-out data after the epoch, in nats.
    #[serde(with = "crate::file::any_float")]
    pub held_out_loss: f64,
    /// Accuracy on the held-out data after the epoch.
    #[serde(with = "crate::file::any_float")]
    pub held_out_accuracy: f64,
    /// Learning rate of the epoch's last step.
    #[serde(with = "crate::file::any_float")]
    pub learning_rate: f64,
    /// Euclidean norm of the gradient, averaged over the epoch's steps.
    #[serde(with = "crate::file::any_float")]
    pub gradient_norm: f64,
    /// Time the epoch took; its share where models are trained side by side.
    #[serde(with = "crate::file::any_float")]
    pub seconds: f64,
}

/// The epochs of all models of a training.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Rows by model, then by epoch.
    pub epochs: Vec<Epoch>,
}

impl History {
    /// One row an epoch and model.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.epochs;
        frame([
            column("model", rows.iter().map(|row| row.model as u64)),
            column("seed", rows.iter().map(|row| row.seed)),
            column("epoch", rows.iter().map(|row| row.epoch as u64)),
            column("train_loss_nats", rows.iter().map(|row| row.train_loss)),
            column("train_accuracy", rows.iter().map(|row| row.train_accuracy)),
            column("held_out_loss_nats", rows.iter().map(|row| row.held_out_loss)),
            column("held_out_accuracy", rows.iter().map(|row| row.held_out_accuracy)),
            column("learning_rate", rows.iter().map(|row| row.learning_rate)),
            column("gradient_norm", rows.iter().map(|row| row.gradient_norm)),
            column("seconds", rows.iter().map(|row| row.seconds)),
        ])
    }

    /// Loss against the epoch: training and held-out data, one pair of lines a model.
    pub fn chart(&self) -> Chart {
        let models = self.epochs.iter().map(|row| row.model + 1).max().unwrap_or(0);
        let series = (0..models).flat_map(|model| {
            let points = |loss: fn(&Epoch) -> f64| {
                let rows = self.epochs.iter().filter(|row| row.model == model);
                rows.map(|row| (row.epoch as f64, loss(row))).collect::<Vec<_>>()
            };
            [
                Series::new(format!("model {model}, held out"), points(|row| row.held_out_loss)).color(model),
                Series::new(format!("model {model}, train"), points(|row| row.train_loss)).color(model).dashed(),
            ]
        });
        Lines::new("Training", "epoch", "loss (nats)").series(series).into()
    }
}
