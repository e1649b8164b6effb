//! Rows of experiments, as a frame and back.

use std::path::Path;

use polars::prelude::{DataFrame, DataType};

use crate::error::{Error, Result};
use crate::frame::{column, frame, load_parquet, save_parquet};

/// What one experiment gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Name of the data.
    pub data: String,
    /// Name of the network.
    pub network: String,
    /// Numbers in its parameters and buffers.
    pub parameters: u64,
    /// Name of the method.
    pub method: String,
    /// Name of the merge.
    pub merge: String,
    /// Models that were merged.
    pub n_models: usize,
    /// Group of models, from 0.
    pub group: usize,
    /// Seed of the method.
    pub seed: u64,
    /// The figures, or why there are none.
    pub measured: std::result::Result<Measured, String>,
    /// Hash of the experiment: SHA-256 of all that decides the figures.
    pub experiment: String,
}

/// The figures of an experiment; losses in nats, on the test data.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Loss of the merge.
    pub test_loss: f64,
    /// Accuracy of the merge.
    pub test_accuracy: f64,
    /// Mean of the models' own losses.
    pub models_loss: f64,
    /// Loss of the mean of the models' probabilities.
    pub ensemble_loss: f64,
    /// Mean of the barriers between all pairs of aligned models.
    pub mean_barrier: f64,
    /// The highest of them.
    pub worst_barrier: f64,
    /// Trace of the Hessian of the merge and its standard error, if it was wanted.
    pub trace: Option<(f64, f64)>,
    /// Time of the alignment.
    pub seconds: f64,
    /// Time of the merge.
    pub merge_seconds: f64,
    /// By how many megabytes the process grew during the alignment, where the system says so.
    pub peak_memory: Option<f64>,
}

impl Measured {
    /// Loss of the merge beyond the mean of the models'.
    pub fn excess(&self) -> f64 {
        self.test_loss - self.models_loss
    }
}

/// Names of the columns of figures, and where each is from.
type Figure = (&'static str, fn(&Measured) -> Option<f64>);
const FIGURES: [Figure; 13] = [
    ("test_loss_nats", |own| Some(own.test_loss)),
    ("test_accuracy", |own| Some(own.test_accuracy)),
    ("models_loss_nats", |own| Some(own.models_loss)),
    ("ensemble_loss_nats", |own| Some(own.ensemble_loss)),
    ("excess_over_models_nats", |own| Some(own.excess())),
    ("excess_over_ensemble_nats", |own| Some(own.test_loss - own.ensemble_loss)),
    ("mean_barrier_nats", |own| Some(own.mean_barrier)),
    ("worst_barrier_nats", |own| Some(own.worst_barrier)),
    ("hessian_trace", |own| own.trace.map(|trace| trace.0)),
    ("hessian_trace_error", |own| own.trace.map(|trace| trace.1)),
    ("seconds", |own| Some(own.seconds)),
    ("merge_seconds", |own| Some(own.merge_seconds)),
    ("peak_memory_mb", |own| own.peak_memory),
];

/// One row an experiment.
pub(super) fn to_frame(rows: &[Row]) -> DataFrame {
    let figures = FIGURES.iter().map(|(name, figure)| {
        column(name, rows.iter().map(|row| row.measured.as_ref().ok().and_then(figure)).collect::<Vec<Option<f64>>>())
    });
    let names = [
        column("data", rows.iter().map(|row| row.data.as_str())),
        column("network", rows.iter().map(|row| row.network.as_str())),
        column("parameters", rows.iter().map(|row| row.parameters)),
        column("method", rows.iter().map(|row| row.method.as_str())),
        column("merge", rows.iter().map(|row| row.merge.as_str())),
        column("n_models", rows.iter().map(|row| row.n_models as u64)),
        column("group", rows.iter().map(|row| row.group as u64)),
        column("seed", rows.iter().map(|row| row.seed)),
    ];
    let errors = rows.iter().map(|row| row.measured.as_ref().err().map(String::as_str));
    let last = [
        column("error", errors.collect::<Vec<Option<&str>>>()),
        column("experiment", rows.iter().map(|row| row.experiment.as_str())),
    ];
    frame(names.into_iter().chain(figures).chain(last))
}

pub(super) fn save(rows: &[Row], path: &Path) -> Result<()> {
    save_parquet(&to_frame(rows), path)
}

/// The rows of a file that [`save`] wrote.
pub(super) fn load(path: &Path) -> Result<Vec<Row>> {
    let table = load_parquet(path)?;
    from_frame(&table).map_err(|reason| Error::Corrupt {
        path: path.into(),
        format: "table of experiments",
        reason,
        hint: "it has to be a table of `Verdicts::frame`; keep nothing else in a folder of results",
    })
}

fn from_frame(table: &DataFrame) -> std::result::Result<Vec<Row>, String> {
    let column = |name: &str, kind: DataType| {
        let column = table.column(name).and_then(|column| column.cast(&kind));
        column.map_err(|error| error.to_string())
    };
    let text = |name: &str| -> std::result::Result<Vec<Option<String>>, String> {
        let column = column(name, DataType::String)?;
        let text = column.str().map_err(|error| error.to_string())?;
        Ok(text.iter().map(|value| value.map(str::to_owned)).collect())
    };
    let whole = |name: &str| -> std::result::Result<Vec<Option<u64>>, String> {
        let column = column(name, DataType::UInt64)?;
        Ok(column.u64().map_err(|error| error.to_string())?.iter().collect())
    };
    let figures = FIGURES.iter().map(|(name, _)| {
        let column = column(name, DataType::Float64)?;
        Ok(column.f64().map_err(|error| error.to_string())?.iter().collect::<Vec<Option<f64>>>())
    });
    let figures = figures.collect::<std::result::Result<Vec<_>, String>>()?;
    let (data, network, parameters) = (text("data")?, text("network")?, whole("parameters")?);
    let (method, merge, error, experiment) = (text("method")?, text("merge")?, text("error")?, text("experiment")?);
    let (n_models, group, seed) = (whole("n_models")?, whole("group")?, whole("seed")?);
    let rows = (0..table.height()).map(|row| {
        let figure = |name: &str| {
            let place = FIGURES.iter().position(|(own, _)| *own == name)?;
            figures[place][row]
        };
        let measured = || {
            Some(Measured {
                test_loss: figure("test_loss_nats")?,
                test_accuracy: figure("test_accuracy")?,
                models_loss: figure("models_loss_nats")?,
                ensemble_loss: figure("ensemble_loss_nats")?,
                mean_barrier: figure("mean_barrier_nats")?,
                worst_barrier: figure("worst_barrier_nats")?,
                trace: figure("hessian_trace").zip(figure("hessian_trace_error")),
                seconds: figure("seconds")?,
                merge_seconds: figure("merge_seconds")?,
                peak_memory: figure("peak_memory_mb"),
            })
        };
        Some(Row {
            data: data[row].clone()?,
            network: network[row].clone()?,
            parameters: parameters[row]?,
            method: method[row].clone()?,
            merge: merge[row].clone()?,
            n_models: n_models[row]? as usize,
            group: group[row]? as usize,
            seed: seed[row]?,
            measured: match &error[row] {
                Some(error) => Err(error.clone()),
                None => Ok(measured()?),
            },
            experiment: experiment[row].clone()?,
        })
    });
    let rows: Vec<Option<Row>> = rows.collect();
    let broken = rows.iter().position(Option::is_none);
    match broken {
        Some(row) => Err(format!("row {row} lacks a value")),
        None => Ok(rows.into_iter().flatten().collect()),
    }
}
