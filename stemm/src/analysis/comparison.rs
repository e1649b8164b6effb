//! The table that says what each alignment is worth: the models one by one, and their mean after each method.

use std::path::Path;

use polars::prelude::DataFrame;

use crate::align::Alignment;
use crate::chart::{Bars, Chart};
use crate::data::Splits;
use crate::error::Result;
use crate::evaluate::loss_and_accuracy;
use crate::frame::{column, frame, save_csv};
use crate::merge::{Repair, merge_weighted};
use crate::network::{Model, check_models};
use crate::notebook::{Bundle, Show};
use crate::train::Training;

/// One row of a [`Comparison`].
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonRow {
    /// `model 0`, ... or the method of the alignment.
    pub method: String,
    /// Models that went into it.
    pub n_models: usize,
    /// Mean cross-entropy on the test data, in nats.
    pub test_loss: f64,
    /// Share of right answers on the test data.
    pub test_accuracy: f64,
    /// Time of the training (models) or of the alignment (merges).
    pub seconds: f64,
    /// What was done to the statistics of the merge.
    pub repair: Repair,
}

/// Models and merges side by side on one data set.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Rows: the models, then the merges.
    pub rows: Vec<ComparisonRow>,
}

/// Evaluates on the test data every model of a training, and the mean of the models after each alignment; networks with
/// batch norm twice, without and with their running statistics recomputed on the training data.
///
/// # Errors
/// An alignment of other models, data that do not fit.
pub fn compare(training: &Training, alignments: &[&Alignment], data: &Splits) -> Result<Comparison> {
    check_models("a comparison", &training.models, 1)?;
    training.models[0].network.check_splits(data)?;
    let row = |method: String, n_models: usize, model: &Model, seconds: f64, repair: Repair| -> Result<ComparisonRow> {
        let (test_loss, test_accuracy) = loss_and_accuracy(&model.network, &model.params, &data.test)?;
        Ok(ComparisonRow { method, n_models, test_loss, test_accuracy, seconds, repair })
    };
    let mut rows = Vec::new();
    for (index, model) in training.models.iter().enumerate() {
        rows.push(row(format!("model {index}"), 1, model, training.seconds(index), Repair::Off)?);
    }
    let n = training.models.len();
    let has_batch_norm = training.models[0].network.has_batch_norm();
    let repairs: &[Repair] = if has_batch_norm { &[Repair::Off, Repair::BatchNorm] } else { &[Repair::Off] };
    for alignment in alignments {
        let aligned = alignment.apply(&training.models)?;
        for &repair in repairs {
            let merged = merge_weighted(&aligned, &vec![1.0 / n as f64; n], repair, &data.train)?;
            rows.push(row(alignment.method.clone(), n, &merged, alignment.seconds, repair)?);
        }
    }
    Ok(Comparison { rows })
}

impl Comparison {
    /// Columns `method, n_models, test_loss, test_accuracy, seconds, repair`; losses in nats.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("method", rows.iter().map(|row| row.method.as_str())),
            column("n_models", rows.iter().map(|row| row.n_models as u64)),
            column("test_loss", rows.iter().map(|row| row.test_loss)),
            column("test_accuracy", rows.iter().map(|row| row.test_accuracy)),
            column("seconds", rows.iter().map(|row| row.seconds)),
            column("repair", rows.iter().map(|row| row.repair.to_string())),
        ])
    }

    /// Test loss by row.
    pub fn chart(&self) -> Chart {
        // Where there are two rows of a method, the one that users would take.
        let repaired = |row: &&ComparisonRow| {
            row.repair != Repair::Off || !self.rows.iter().any(|r| r.method == row.method && r.repair != Repair::Off)
        };
        let rows = self.rows.iter().filter(repaired);
        let bars = rows.map(|row| (row.method.clone(), row.test_loss, 0.0)).collect();
        Bars::new("Models and their mean", "test loss (nats)", bars).into()
    }

    /// Writes the table as CSV.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_csv(&self.frame(), path)
    }
}

impl Show for Comparison {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), "losses in nats")
    }
}
