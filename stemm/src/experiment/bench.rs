//! The bench on which experiments are run: it keeps models and alignments that the next experiment may share.

use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tch::Device;

use super::store::{Claim, Store, set_aside};
use super::{Entry, Experiment, Measured, Row};
use crate::align::{Aligner, Alignment};
use crate::analysis::{Curve, Hutchinson, Interpolation, ensemble};
use crate::data::Splits;
use crate::error::{Error, RETRAIN, Result};
use crate::evaluate::{highest, loss_and_accuracy};
use crate::file::{digest_of, spared_by};
use crate::memory;
use crate::network::Model;
use crate::progress::Progress;
use crate::train::Trainer;

/// Runs experiments on some data, one after the other. Models and alignments that consecutive experiments share are made once; with
/// a [`Store`] also those of other processes, and of earlier ones that were interrupted or killed.
#[derive(Debug)]
pub struct Bench<'a> {
    data: &'a Splits,
    store: Option<&'a Store>,
    /// Where progress is shown.
    pub progress: Progress,
    /// Devices that share trainings, as [`Trainer::devices`].
    pub devices: Vec<Device>,
    /// Models trained side by side, as [`Trainer::at_once`].
    pub at_once: Option<usize>,
    /// The models of the training that is at work, or why there are none.
    models: Vec<(String, u64, OrReason<Model>)>,
    aligned: Option<(String, OrReason<Aligned>)>,
}

/// What came out, or the words of the error that a row holds.
type OrReason<T> = std::result::Result<T, String>;

/// Models that one method aligned, and what every merge of them shares.
#[derive(Debug)]
struct Aligned {
    models: Vec<Model>,
    figures: Figures,
}

/// What is measured of an alignment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Figures {
    seconds: f64,
    peak_memory: Option<f64>,
    models_loss: f64,
    ensemble_loss: f64,
    barrier_points: usize,
    mean_barrier: f64,
    worst_barrier: f64,
    /// SHA-256 of the models that were aligned.
    models: String,
    /// [`Experiment::alignment`]; nothing in files of before it was there.
    #[serde(default)]
    alignment: String,
}

impl<'a> Bench<'a> {
    /// A bench that keeps nothing but what the next experiment needs.
    pub fn new(data: &'a Splits) -> Bench<'a> {
        let (progress, devices) = (Progress::default(), Vec::new());
        Bench { data, store: None, progress, devices, at_once: None, models: Vec::new(), aligned: None }
    }

    /// A bench that keeps models, alignments and rows in a folder, and takes from there what it finds.
    pub fn kept_in(data: &'a Splits, store: &'a Store) -> Bench<'a> {
        Bench { store: Some(store), ..Bench::new(data) }
    }

    /// The rows of many experiments, in their order.
    ///
    /// # Errors
    /// As [`Bench::run`].
    pub fn run_all(&mut self, entries: &[Entry]) -> Result<Vec<Row>> {
        let mut task = self.progress.task("experiments", entries.len());
        let mut rows = Vec::with_capacity(entries.len());
        // The most models of a group first: they are trained side by side, where that is faster.
        for group in entries.chunk_by(|a, b| a.shares_models_with(b)) {
            let mut own: Vec<Option<Row>> = vec![None; group.len()];
            let mut order: Vec<usize> = (0..group.len()).collect();
            order.sort_by_key(|&place| std::cmp::Reverse(group[place].experiment.models.len()));
            for place in order {
                let entry = &group[place];
                own[place] = Some(self.run(entry)?);
                task.step(|| entry.to_string())?;
            }
            rows.extend(own.into_iter().flatten());
        }
        task.finish();
        Ok(rows)
    }

    /// The row of an experiment: that of the store, or a new one. An error of the experiment is in the row.
    ///
    /// # Errors
    /// An interrupt, data that do not fit the network, files that cannot be written.
    pub fn run(&mut self, entry: &Entry) -> Result<Row> {
        let kept = self.store.map(|store| store.row(&entry.experiment.hash())).transpose()?.flatten();
        if let Some(row) = kept {
            return Ok(entry.row(row.measured)); // with the names that it has here
        }
        let measured = match self.measure(&entry.experiment) {
            Err(error) if ends_all(&error) => return Err(error),
            other => other.map_err(|error| error.to_string()),
        };
        let row = entry.row(measured);
        if let Some(store) = self.store {
            store.keep(&row)?;
        }
        Ok(row)
    }

    /// The figures of an experiment.
    ///
    /// # Errors
    /// Settings out of range, data that do not fit, losses that are not finite, an interrupt.
    pub fn measure(&mut self, experiment: &Experiment) -> Result<Measured> {
        let hash = experiment.alignment();
        let ready = |own: &(String, OrReason<Aligned>)| {
            let points = own.1.as_ref().map_or(experiment.barrier_points, |own| own.figures.barrier_points);
            own.0 == hash && points == experiment.barrier_points
        };
        if !self.aligned.as_ref().is_some_and(ready) {
            let aligned = uninterrupted(self.align(experiment, &hash))?;
            self.aligned = Some((hash, aligned));
        }
        let aligned = match &self.aligned {
            Some((_, Ok(aligned))) => aligned,
            Some((_, Err(reason))) => return Err(Error::Experiment { reason: reason.clone() }),
            None => return Err(Error::Experiment { reason: "it was not aligned".into() }),
        };
        let start = Instant::now();
        let merged = match aligned.models.as_slice() {
            [alone] => alone.clone(),
            several => experiment.merge.merge(several, self.data)?,
        };
        let merge_seconds = start.elapsed().as_secs_f64();
        let (test_loss, test_accuracy) = loss_and_accuracy(&experiment.network, &merged.params, &self.data.test)?;
        let trace = experiment.trace.as_ref().map(|settings| -> Result<(f64, f64)> {
            let settings = Hutchinson { progress: Progress::Silent, ..settings.clone() };
            let traces = settings.traces(&[("merge", &merged)], &self.data.test)?;
            let estimate = traces.estimates.first().map(|own| (own.mean(), own.standard_error()));
            Ok(estimate.unwrap_or((f64::NAN, f64::NAN)))
        });
        let figures = aligned.figures.clone();
        Ok(Measured {
            test_loss: finite("the loss of the merge", test_loss)?,
            test_accuracy,
            models_loss: figures.models_loss,
            ensemble_loss: figures.ensemble_loss,
            mean_barrier: figures.mean_barrier,
            worst_barrier: figures.worst_barrier,
            trace: trace.transpose()?,
            seconds: figures.seconds,
            merge_seconds,
            peak_memory: figures.peak_memory,
        })
    }

    /// The aligned models of an experiment, and what is measured of them.
    fn align(&mut self, experiment: &Experiment, hash: &str) -> Result<Aligned> {
        let models = self.models(experiment)?;
        let path = self.store.map(|store| store.alignment(hash));
        let _claim = path.as_deref().map(Claim::of).transpose()?;
        let digest = digest_of(models.iter().flat_map(|model| model.params.all()))?;
        let known = match &path {
            Some(path) if path.exists() => known(path, experiment, hash, &digest)?,
            _ => None,
        };
        if let Some((alignment, figures)) = &known
            && figures.barrier_points == experiment.barrier_points
        {
            return Ok(Aligned { models: alignment.apply(&models)?, figures: figures.clone() });
        }
        let (alignment, peak_memory) = match known {
            Some((alignment, figures)) => (Alignment { seconds: figures.seconds, ..alignment }, figures.peak_memory),
            None => {
                let method = experiment.method.with(experiment.seed, self.progress);
                // One folder for each alignment: a checkpoint is that of one.
                let own = method.checkpoints().map(|folder| folder.join(&hash[..16]));
                let state = path.as_ref().map(|path| path.with_extension("state")).or(own);
                let method = match &state {
                    Some(state) => method.kept_in(state),
                    None => method,
                };
                let (alignment, peak_memory) = memory::measured(|| self.healed(|| method.align(&models, self.data)));
                (alignment?, peak_memory)
            }
        };
        let aligned = alignment.apply(&models)?;
        let points = experiment.barrier_points;
        let walk = Interpolation { points, progress: Progress::Silent, ..Interpolation::default() };
        let barriers: Vec<f64> = match aligned.len() {
            1 => vec![0.0],
            _ => {
                walk.barriers(&alignment.method, &aligned, self.data)?.curves.iter().map(Curve::loss_barrier).collect()
            }
        };
        let own = models.iter().map(|model| Ok(loss_and_accuracy(&model.network, &model.params, &self.data.test)?.0));
        let own = own.collect::<Result<Vec<f64>>>()?;
        let figures = Figures {
            seconds: alignment.seconds,
            peak_memory,
            models_loss: own.iter().sum::<f64>() / own.len() as f64,
            ensemble_loss: ensemble(&models, &self.data.test)?.0,
            barrier_points: points,
            mean_barrier: barriers.iter().sum::<f64>() / barriers.len() as f64,
            worst_barrier: finite("a barrier", highest(barriers.iter().copied()))?,
            models: digest,
            alignment: hash.to_owned(),
        };
        if let Some(path) = &path {
            alignment.save_with(path, &experiment.network, &figures)?;
            let _ = std::fs::remove_dir_all(path.with_extension("state")); // what is left over does no harm
        }
        Ok(Aligned { models: aligned, figures })
    }

    /// The models of an experiment, trained unless they are at hand.
    pub(super) fn models(&mut self, experiment: &Experiment) -> Result<Vec<Model>> {
        let training = experiment.training();
        let seeds = &experiment.models;
        // Those of another group are not needed again.
        if !self.models.iter().any(|(own, seed, _)| *own == training && seeds.contains(seed)) {
            self.models.clear();
        }
        self.train(experiment, &training)?;
        let found = seeds.iter().filter_map(|seed| self.models.iter().find(|(_, own, _)| own == seed));
        found.map(|(_, _, model)| model.clone().map_err(|reason| Error::Experiment { reason })).collect()
    }

    /// What some work gives, once the checkpoints in the store that it cannot go on from are out of its way.
    fn healed<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match work() {
                Err(
                    Error::Corrupt { path, .. }
                    | Error::CheckpointMismatch { path, .. }
                    | Error::CheckpointAhead { path, .. },
                ) if self.store.is_some_and(|store| store.holds(&path)) => {
                    set_aside(&path)?;
                }
                other => return other,
            }
        }
    }

    /// Trains the models of an experiment that are missing.
    fn train(&mut self, experiment: &Experiment, training: &str) -> Result<()> {
        let at_hand = |seed: &&u64| !self.models.iter().any(|(_, own, _)| own == *seed);
        let missing: Vec<u64> = experiment.models.iter().filter(at_hand).copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let own = || experiment.trainer.checkpoints.clone();
        let checkpoints = self.store.map(|store| store.models(training)).or_else(own);
        // In one order, so that no two processes wait for each other.
        let mut sorted = missing.clone();
        sorted.sort_unstable();
        let claim = |folder: &Path| {
            sorted.iter().map(|seed| Claim::of(&folder.join(format!("seed{seed}")))).collect::<Result<Vec<_>>>()
        };
        let _claims = self.store.and(checkpoints.as_deref()).map(claim).transpose()?;
        let (devices, at_once, progress) = (self.devices.clone(), self.at_once, self.progress);
        let trainer = Trainer { checkpoints, devices, at_once, progress, ..experiment.trainer.clone() };
        let train = |seeds: &[u64]| self.healed(|| trainer.train(&experiment.network, self.data, seeds));
        let models: Vec<OrReason<Model>> = match train(&missing) {
            Ok(training) => training.models.into_iter().map(Ok).collect(),
            // One of them, or all together: the others are worth having. Whoever shares them need not try again.
            Err(Error::NonFinite { .. } | Error::OutOfMemory(_)) => {
                let alone = missing.iter().map(|&seed| uninterrupted(train(&[seed]).map(|own| own.models)));
                let alone = alone.collect::<Result<Vec<OrReason<Vec<Model>>>>>()?;
                let lost = || "its training gave no model".to_owned();
                alone.into_iter().map(|own| own.and_then(|mut models| models.pop().ok_or_else(lost))).collect()
            }
            Err(error) => return Err(error),
        };
        self.models.extend(missing.into_iter().zip(models).map(|(seed, model)| (training.to_owned(), seed, model)));
        Ok(())
    }
}

/// The stored alignment by this very method of these very models, if it can be read.
fn known(path: &Path, experiment: &Experiment, hash: &str, digest: &str) -> Result<Option<(Alignment, Figures)>> {
    match Alignment::load_with::<Figures>(path, &experiment.network) {
        Ok((_, figures)) if figures.models != digest => Ok(None), // of models that were trained anew
        Ok((alignment, figures))
            if alignment.permutations.len() == experiment.models.len()
                && (figures.alignment.is_empty() || figures.alignment == hash) =>
        {
            Ok(Some((alignment, figures)))
        }
        Err(error) if spared_by(&error) => Err(error),
        _ => {
            set_aside(path)?;
            Ok(None)
        }
    }
}

/// Whether an error is none of the experiment, but of whatever runs it.
fn ends_all(error: &Error) -> bool {
    matches!(error, Error::Interrupted { .. } | Error::File { .. })
}

fn finite(what: &str, value: f64) -> Result<f64> {
    match value.is_finite() {
        true => Ok(value),
        false => Err(Error::NonFinite { tensor: what.to_owned(), hint: RETRAIN }),
    }
}

/// An interrupt ends the work, and so does a disk that cannot be written to; every other error is one of the row.
fn uninterrupted<T>(result: Result<T>) -> Result<OrReason<T>> {
    match result {
        Err(error) if ends_all(&error) => Err(error),
        other => Ok(other.map_err(|error| error.to_string())),
    }
}
