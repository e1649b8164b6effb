//! Plans: a grid of experiments in a file, run here or by any number of machines that share its folder of results.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::Device;

use super::{Bench, Data, Entry, Experiment, Outcome, Published, Row, Status, Store, Tournament, Verdicts};
use crate::align::Method;
use crate::analysis::{Hutchinson, distinct};
use crate::device::cuda_devices;
use crate::error::{Error, Result};
use crate::file;
use crate::merge::Merging;
use crate::network::Network;
use crate::progress::Progress;
use crate::train::Trainer;

/// A grid of experiments: every data set with every network, as a [`Tournament`] of each. Written as TOML, with the names that things
/// have in Rust; what is left out has its default.
///
/// ```
/// use stemm::prelude::*;
/// let plan = Plan::parse(
///     r#"
///     results = "out/widths"
///     data = [{ set = { Blobs = 0 } }]
///     networks = [{ Mlp = [16, 8, 4] }, { Mlp = [16, 32, 4] }]
///     methods = ["Naive", { WeightMatching = {} }, { SteMm = { epochs = 2, mixing = "Midpoint" } }]
///     merges = ["Mean", { RegMean = { samples = 100 } }]
///     counts = [2, 3]
///     groups = 2
///     [trainer]
///     epochs = 3
///     batch_size = 64
///     "#,
/// )?;
/// assert_eq!(plan.entries()?.len(), 2 * 3 * 2 * 2 * 2);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Folder for rows, alignments and models ([`Store`]); a relative one lies beside the plan.
    pub results: PathBuf,
    /// Folder of the data sets' files; a relative one lies beside the plan.
    #[serde(default = "data_folder")]
    pub data_folder: PathBuf,
    /// The data sets.
    pub data: Vec<Published>,
    /// The networks.
    pub networks: Vec<Architecture>,
    /// How models are trained.
    #[serde(default)]
    pub trainer: Trainer,
    /// The methods.
    pub methods: Vec<Method>,
    /// The ways of merging.
    #[serde(default = "mean")]
    pub merges: Vec<Merging>,
    /// Numbers of models that are merged.
    pub counts: Vec<usize>,
    /// Groups of models, none of which is in two of them.
    pub groups: usize,
    /// Seed of the first model.
    #[serde(default)]
    pub first_seed: u64,
    /// Seeds of each method.
    #[serde(default = "one_seed")]
    pub seeds: Vec<u64>,
    /// Places on the line between each pair of aligned models.
    #[serde(default = "points")]
    pub barrier_points: usize,
    /// Which trace of the Hessian of each merge is estimated, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Hutchinson>,
    /// How jobs are asked for, where a cluster runs them.
    #[serde(default)]
    pub slurm: Slurm,
}

/// A network by its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Architecture {
    /// Fully connected, by the number of its inputs, units and classes.
    Mlp(Vec<i64>),
    /// VGG11 by its width.
    Vgg11(f64),
    /// ResNet20 by its width.
    ResNet20(f64),
}

/// What a job asks a Slurm cluster for; each is an option of `sbatch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slurm {
    /// `--account`.
    pub account: Option<String>,
    /// `--partition`.
    pub partition: Option<String>,
    /// `--time`, such as `02:00:00`.
    pub time: Option<String>,
    /// `--gpus-per-task`.
    pub gpus: Option<usize>,
    /// `--cpus-per-task`.
    pub cpus: Option<usize>,
    /// `--mem`, such as `8G`.
    pub memory: Option<String>,
    /// Tasks of an array, at most; each has an equal share of the experiments.
    pub tasks: Option<usize>,
    /// Tasks that run at the same time, at most.
    pub at_once: Option<usize>,
    /// Lines of shell before the work, such as `module load`.
    pub before: Vec<String>,
}

fn data_folder() -> PathBuf {
    "data".into()
}

fn mean() -> Vec<Merging> {
    vec![Merging::Mean]
}

fn one_seed() -> Vec<u64> {
    vec![0]
}

fn points() -> usize {
    11
}

impl Architecture {
    /// The network.
    ///
    /// # Errors
    /// Sizes that no network has.
    pub fn network(&self) -> Result<Network> {
        match self {
            Architecture::Mlp(widths) => Network::mlp(widths),
            Architecture::Vgg11(width) => Network::vgg11(*width),
            Architecture::ResNet20(width) => Network::resnet20(*width),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Architecture::Mlp(widths) => {
                let widths: Vec<String> = widths.iter().map(i64::to_string).collect();
                write!(f, "MLP {}", widths.join("-"))
            }
            Architecture::Vgg11(width) => write!(f, "VGG11 x{width}"),
            Architecture::ResNet20(width) => write!(f, "ResNet20 x{width}"),
        }
    }
}

/// An error of one part of a plan with the words for that part; files and interrupts speak for themselves.
fn about(what: &str, which: impl fmt::Display, error: Error) -> Error {
    match error {
        Error::File { action: action @ "read", path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Error::File { action, path, source, hint: "fetch it by `make data`, and name its folder as `data_folder`" }
        }
        error @ (Error::File { .. } | Error::Interrupted { .. }) => error,
        other => Error::Experiment { reason: format!("{what}, {which}: {other}") },
    }
}

impl Plan {
    /// Reads a plan; its folders are those beside it.
    ///
    /// # Errors
    /// A file that cannot be read or is no plan: the message says in which line and what would fit.
    pub fn load(path: impl AsRef<Path>) -> Result<Plan> {
        let path = path.as_ref();
        let bytes = file::read(path, "check the path")?;
        let text = String::from_utf8(bytes).map_err(|error| format!("it is no UTF-8: {}", error.utf8_error()));
        let plan = text.and_then(|text| Plan::read(&text));
        let mut plan = plan.map_err(|reason| Error::Plan { path: path.into(), reason })?;
        let beside = path.parent().unwrap_or(Path::new(""));
        plan.results = beside.join(&plan.results);
        plan.data_folder = beside.join(&plan.data_folder);
        Ok(plan)
    }

    /// Reads a plan from a text; its folders are those of the working directory.
    ///
    /// # Errors
    /// A text that is no plan.
    pub fn parse(text: &str) -> Result<Plan> {
        Plan::read(text).map_err(|reason| Error::Plan { path: "this text".into(), reason })
    }

    fn read(text: &str) -> std::result::Result<Plan, String> {
        toml::from_str(text).map_err(|error| {
            let reason = error.to_string().trim_end().to_owned();
            // The words of a library for what readers write first: a name alone.
            let bare = ["expected newtype variant", "expected struct variant", "expected tuple variant"];
            match bare.iter().any(|words| reason.contains(words)) {
                true => format!("{reason}\nwrite it with what it takes: {{ WeightMatching = {{}} }}, {{ Blobs = 0 }}, {{ Sgd = {{ momentum = 0.9, weight_decay = 5e-4, nesterov = false }} }}"),
                false => reason,
            }
        })
    }

    /// Its experiments in the order of their numbers: those that share models stand side by side.
    ///
    /// # Errors
    /// Settings out of range, networks that no network is.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        for (setting, empty) in [("data", self.data.is_empty()), ("networks", self.networks.is_empty())] {
            if empty {
                return Err(Error::Setting { setting, value: "[]".into(), requirement: "at least one" });
            }
        }
        for (setting, names) in [
            ("data", self.data.iter().map(Published::to_string).collect::<Vec<_>>()),
            ("networks", self.networks.iter().map(Architecture::to_string).collect()),
        ] {
            if distinct(&names).len() < names.len() {
                let requirement = "none of them twice";
                return Err(Error::Setting { setting, value: names.join("; "), requirement });
            }
        }
        let mut entries = Vec::new();
        for data in &self.data {
            for architecture in &self.networks {
                let tournament = Tournament {
                    trainer: self.trainer.clone(),
                    methods: self.methods.clone(),
                    merges: self.merges.clone(),
                    counts: self.counts.clone(),
                    groups: self.groups,
                    first_seed: self.first_seed,
                    seeds: self.seeds.clone(),
                    barrier_points: self.barrier_points,
                    trace: self.trace.clone(),
                    ..Tournament::new(architecture.network().map_err(|error| about("networks", architecture, error))?)
                };
                let name = data.to_string();
                entries.extend(tournament.entries(&Data::Published(data.clone()), &name, &architecture.to_string())?);
            }
        }
        Ok(entries)
    }

    /// Runs experiments one after the other: all of `entries` whose rows are not there yet. Also gives the rows that are there.
    ///
    /// # Errors
    /// Data that are missing or do not fit, an interrupt, a disk that cannot be written to.
    pub fn run(&self, entries: &[Entry], device: impl Into<Device>, progress: Progress) -> Result<Verdicts> {
        let store = Store::open(&self.results)?;
        let mut rows: Vec<Row> = Vec::new();
        self.with_data(entries, (device.into(), progress), &store, |bench, own| {
            rows.extend(bench.run_all(own)?);
            Ok(())
        })?;
        Ok(Verdicts { rows })
    }

    /// One experiment for each model that some entries need, with that model alone: what a cluster trains first.
    pub fn models(entries: &[Entry]) -> Vec<Entry> {
        let single = |entry: &Entry, seed: u64| {
            let experiment = Experiment { models: vec![seed], ..entry.experiment.clone() };
            (entry.experiment.training(), seed, Entry { experiment, ..entry.clone() })
        };
        let mut found: Vec<(String, u64, Entry)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        // The entries of a group follow each other: its training is hashed once for each number of models only.
        for group in entries.chunk_by(|a, b| a.shares_models_with(b)) {
            for models in distinct(group.iter().map(|entry| &entry.experiment.models)) {
                let Some(entry) = group.iter().find(|entry| entry.experiment.models == *models) else { continue };
                let singles = models.iter().map(|&seed| single(entry, seed));
                found.extend(singles.filter(|(training, seed, _)| seen.insert((training.clone(), *seed))));
            }
        }
        found.into_iter().map(|(_, _, entry)| entry).collect()
    }

    /// Trains the models of some entries, as [`Plan::models`] gives them, and leaves them in the folder of results. Gives the errors of
    /// those that cannot be trained.
    ///
    /// # Errors
    /// As [`Plan::run`].
    pub fn train(&self, models: &[Entry], device: impl Into<Device>, progress: Progress) -> Result<Vec<String>> {
        let store = Store::open(&self.results)?;
        let mut failed = Vec::new();
        self.with_data(models, (device.into(), progress), &store, |bench, own| {
            for entry in own {
                // Whoever needs the others need not wait for the error of one.
                if let Err(error) = bench.models(&entry.experiment) {
                    match error {
                        Error::Experiment { .. } => {
                            let seeds = &entry.experiment.models;
                            failed.push(format!("{}, {}, seed {seeds:?}: {error}", entry.data, entry.network));
                        }
                        other => return Err(other),
                    }
                }
            }
            Ok(())
        })?;
        Ok(failed)
    }

    /// Does something on a bench for each run of entries whose networks take the same data in the same shape: they are read once.
    fn with_data(
        &self,
        entries: &[Entry],
        (device, progress): (Device, Progress),
        store: &Store,
        mut work: impl FnMut(&mut Bench, &[Entry]) -> Result<()>,
    ) -> Result<()> {
        let same = |a: &Entry, b: &Entry| {
            let input = |entry: &Entry| entry.experiment.network.input_shape().to_vec();
            a.experiment.data == b.experiment.data && input(a) == input(b)
        };
        for own in entries.chunk_by(same) {
            let experiment = &own[0].experiment;
            let Data::Published(published) = &experiment.data else { continue };
            let unfit = |error| about(&own[0].data, &own[0].network, error);
            let data = published.load(&self.data_folder, device, &experiment.network).map_err(unfit)?;
            for group in own.chunk_by(|a, b| a.shares_models_with(b)) {
                let fits = group[0].experiment.network.check_splits(&data);
                fits.map_err(|error| about(&group[0].data, &group[0].network, error))?;
            }
            let mut bench = Bench::kept_in(&data, store);
            bench.progress = progress;
            if device != Device::Cpu {
                bench.devices = cuda_devices();
            }
            work(&mut bench, own)?;
        }
        Ok(())
    }

    /// How far it is, by the names of the files of results.
    ///
    /// # Errors
    /// As [`Plan::entries`]; a folder that cannot be read.
    pub fn status(&self) -> Result<Status> {
        let entries = self.entries()?;
        let store = Store::open(&self.results)?;
        let hashes: Vec<String> = entries.iter().map(|entry| entry.experiment.hash()).collect();
        let outcomes = store.outcomes(hashes.iter().map(String::as_str))?;
        let failed = |(number, (hash, outcome)): (usize, (&String, &Outcome))| match outcome {
            Outcome::Failed => Some((number, store.error(hash).unwrap_or_default())),
            _ => None,
        };
        let errors = hashes.iter().zip(&outcomes).enumerate().filter_map(failed).collect();
        Ok(Status { entries, outcomes, errors })
    }

    /// The rows that are there.
    ///
    /// # Errors
    /// As [`Plan::status`]; a table that cannot be read.
    pub fn verdicts(&self) -> Result<Verdicts> {
        let store = Store::open(&self.results)?;
        let mut rows = Vec::new();
        for entry in self.entries()? {
            rows.extend(store.row(&entry.experiment.hash())?.map(|row| entry.row(row.measured)));
        }
        Ok(Verdicts { rows })
    }
}
