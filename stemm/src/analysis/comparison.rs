//! The table that says what each alignment is worth: the models one by one, and their mean after each method.

use std::path::Path;
use std::time::Instant;

use polars::prelude::DataFrame;

use crate::align::Alignment;
use crate::chart::{Bars, Chart};
use crate::data::Splits;
use crate::error::Result;
use crate::evaluate::loss_and_accuracy;
use crate::frame::{column, frame, save_csv};
use crate::merge::{Merging, Repair, merge_weighted};
use crate::network::{Model, check_models};
use crate::notebook::{Bundle, Show};
use crate::train::Training;

/// One row of a [`Comparison`].
#[derive(Clone, Debug, PartialEq)]
pub struct ComparisonRow {
    /// `model 0`, ... or the method of the alignment.
    pub method: String,
    /// Models that went into it; of a greedy soup those that it chose from.
    pub n_models: usize,
    /// Mean cross-entropy on the test data, in nats.
    pub test_loss: f64,
    /// Share of right answers on the test data.
    pub test_accuracy: f64,
    /// Time of the training (models; NaN where it is not known) or of alignment and merge.
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

/// Models to be compared, with what tables call them and the time their training took, where it is known.
pub trait Candidates {
    /// Label, model and seconds of each.
    fn labelled(&self) -> Vec<(String, Model, f64)>;
}

impl Candidates for Training {
    fn labelled(&self) -> Vec<(String, Model, f64)> {
        let own = self.models.iter().enumerate();
        own.map(|(index, model)| (format!("model {index}"), model.clone(), self.seconds(index))).collect()
    }
}

/// Models from anywhere, numbered.
impl Candidates for [Model] {
    fn labelled(&self) -> Vec<(String, Model, f64)> {
        let own = self.iter().enumerate();
        own.map(|(index, model)| (format!("model {index}"), model.clone(), f64::NAN)).collect()
    }
}

/// Models from anywhere with labels of their own.
impl Candidates for [(&str, Model)] {
    fn labelled(&self) -> Vec<(String, Model, f64)> {
        self.iter().map(|(label, model)| ((*label).to_owned(), model.clone(), f64::NAN)).collect()
    }
}

/// Evaluates on the test data every model, and the mean of the models after each alignment; networks with batch norm twice,
/// without and with their running statistics recomputed on the training data.
///
/// The models are those of a [`Training`], or a list, `&models[..]`, or one with labels, `&[("mine", model)][..]`.
///
/// # Errors
/// An alignment of other models, data that do not fit.
pub fn compare(models: &(impl Candidates + ?Sized), alignments: &[&Alignment], data: &Splits) -> Result<Comparison> {
    compare_merges(models, alignments, &[Merging::Mean], data)
}

/// The same with every way of merging after each alignment.
///
/// # Errors
/// As [`compare`].
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let training = Trainer { epochs: 2, batch_size: 64, ..Trainer::default() }.train(&network, &data, &[0, 1])?;
/// let aligned = WeightMatching::default().align(&training.models, &data)?;
/// let table = compare_merges(&training, &[&aligned], &[Merging::Mean, Merging::RegMean(RegMean::default())], &data)?;
/// assert_eq!(table.rows.len(), 2 + 2);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn compare_merges(
    models: &(impl Candidates + ?Sized),
    alignments: &[&Alignment],
    merges: &[Merging],
    data: &Splits,
) -> Result<Comparison> {
    let labelled = models.labelled();
    let models: Vec<Model> = labelled.iter().map(|(_, model, _)| model.clone()).collect();
    check_models("a comparison", &models, 1)?;
    models[0].network.check_splits(data)?;
    let row = |method: String, n_models: usize, model: &Model, seconds: f64, repair: Repair| -> Result<ComparisonRow> {
        let (test_loss, test_accuracy) = loss_and_accuracy(&model.network, &model.params, &data.test)?;
        Ok(ComparisonRow { method, n_models, test_loss, test_accuracy, seconds, repair })
    };
    let mut rows = Vec::new();
    for (label, model, seconds) in labelled {
        rows.push(row(label, 1, &model, seconds, Repair::Off)?);
    }
    let n = models.len();
    let repair = Repair::default().done_to(&models[0].network);
    for alignment in alignments {
        let aligned = alignment.apply(&models)?;
        for merging in merges {
            let method = match merging {
                Merging::Mean => alignment.method.clone(),
                other => format!("{}, {other}", alignment.method),
            };
            if *merging == Merging::Mean && repair != Repair::Off {
                let plain = merge_weighted(&aligned, &vec![1.0 / n as f64; n], Repair::Off, &data.train)?;
                rows.push(row(method.clone(), n, &plain, alignment.seconds, Repair::Off)?);
            }
            let start = Instant::now();
            let merged = merging.merge(&aligned, data)?;
            rows.push(row(method, n, &merged, alignment.seconds + start.elapsed().as_secs_f64(), repair)?);
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
