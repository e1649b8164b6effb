//! The referee: all methods on the same models, over groups of models that share none, with standard errors.

mod rows;
mod verdicts;

pub use rows::{Measured, TournamentRow};
pub use verdicts::Verdicts;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use super::{Interpolation, ensemble};
use crate::align::{ActivationMatching, Aligner, FrankWolfe, Naive, SteMm, WeightMatching};
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::evaluate::loss_and_accuracy;
use crate::file;
use crate::memory;
use crate::merge::Merging;
use crate::network::{Model, Network};
use crate::progress::Progress;
use crate::train::{Trainer, positive, within};

/// Settings of a tournament: every method aligns the first `n` models of every group, and every merge makes one of them.
///
/// With a file for the results it can be interrupted, killed and run again: a row that is in the file is not measured a second
/// time, unless it holds an error, and the models are kept beside it.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let tournament = Tournament {
///     trainer: Trainer { epochs: 3, batch_size: 64, ..Trainer::default() },
///     methods: vec![Box::new(Naive), Box::new(WeightMatching::default())],
///     counts: vec![2, 3],
///     groups: 2,
///     ..Tournament::new(Network::mlp(&[16, 12, 4])?)
/// };
/// let verdicts = tournament.run(&data)?;
/// assert_eq!(verdicts.rows.len(), 2 * 2 * 2);
/// println!("{}", verdicts.summary("naive")?);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Tournament {
    /// What is trained.
    pub network: Network,
    /// How it is trained.
    pub trainer: Trainer,
    /// The methods; their names must differ.
    pub methods: Vec<Box<dyn Aligner>>,
    /// The ways of merging.
    pub merges: Vec<Merging>,
    /// Numbers of models that are merged, each at least 2; a group has as many models as the largest.
    pub counts: Vec<usize>,
    /// Groups of models, none of which is in two of them: what standard errors are taken over.
    pub groups: usize,
    /// Seed of the first model; the others follow.
    pub first_seed: u64,
    /// Seeds of each method.
    pub seeds: Vec<u64>,
    /// Places on the line between each pair of aligned models.
    pub barrier_points: usize,
    /// Parquet file of the rows; models are kept in the folder of the same name that ends in `.models`. Several tournaments can
    /// share a file.
    pub results: Option<PathBuf>,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Tournament {
    /// A tournament of all methods that take no gradients, and STE-MM, by the mean of 2, 3 and 5 models of five groups.
    pub fn new(network: Network) -> Tournament {
        let methods: Vec<Box<dyn Aligner>> = vec![
            Box::new(Naive),
            Box::new(WeightMatching::default()),
            Box::new(ActivationMatching::default()),
            Box::new(FrankWolfe::default()),
            Box::new(SteMm::default()),
        ];
        Tournament {
            network,
            trainer: Trainer::default(),
            methods,
            merges: vec![Merging::Mean],
            counts: vec![2, 3, 5],
            groups: 5,
            first_seed: 0,
            seeds: vec![0],
            barrier_points: 11,
            results: None,
            progress: Progress::default(),
        }
    }

    /// Measures whatever is not in the file of results yet.
    ///
    /// A cell that fails has a row with the error, and the others go on; so has one whose models cannot be trained.
    ///
    /// # Errors
    /// Settings out of range, data that do not fit, a file that cannot be read or written, an interrupt: then call it again.
    pub fn run(&self, data: &Splits) -> Result<Verdicts> {
        self.check(data)?;
        let digest = data.digest()?;
        let mut kept = match &self.results {
            Some(path) if path.exists() => rows::load(path)?,
            _ => Vec::new(),
        };
        let cells = self.cells();
        let mut task = self.progress.task("tournament", cells.len() * self.merges.len());
        // The models of the group that is at work, or why there are none.
        let mut trained: Option<(usize, Outcome<Vec<Model>>)> = None;
        for (index, cell) in cells.iter().enumerate() {
            let done = |key: &String| kept.iter().any(|row| row.key == *key && row.measured.is_ok());
            let keys = self.merges.iter().map(|merging| (merging, self.key(cell, merging, &digest)));
            let missing: Vec<(&Merging, String)> = keys.filter(|(_, key)| !done(key)).collect();
            task.skip(self.merges.len() - missing.len());
            if missing.is_empty() {
                continue;
            }
            if trained.as_ref().is_none_or(|(group, _)| *group != cell.group) {
                trained = Some((cell.group, self.models(cell.group, data, &digest)?));
            }
            let merges: Vec<&Merging> = missing.iter().map(|(merging, _)| *merging).collect();
            let measured = match &trained {
                Some((_, Ok(models))) => uninterrupted(self.measure(cell, &merges, &models[..cell.count], data))?,
                Some((_, Err(error))) => Err(error.clone()),
                None => Ok(Vec::new()),
            };
            let name = self.methods[cell.method].name();
            for (place, (merging, key)) in missing.iter().enumerate() {
                kept.retain(|row| row.key != *key);
                kept.push(TournamentRow {
                    method: name.to_owned(),
                    merge: merging.to_string(),
                    n_models: cell.count,
                    group: cell.group,
                    seed: cell.seed,
                    measured: measured.as_ref().map_err(String::clone).and_then(|all| all[place].clone()),
                    key: key.clone(),
                });
            }
            // Before anything asks whether to stop.
            if let Some(path) = &self.results {
                rows::save(&kept, path)?;
            }
            for _ in &missing {
                task.step(|| format!("{name}, {} models, group {}, cell {}", cell.count, cell.group, index + 1))?;
            }
        }
        task.finish();
        // The file may hold other tournaments as well, which numbered their groups otherwise.
        let wanted = cells.iter().flat_map(|cell| self.merges.iter().map(move |merging| (cell, merging)));
        let rows = wanted.filter_map(|(cell, merging)| {
            let key = self.key(cell, merging, &digest);
            let row = kept.iter().find(|row| row.key == key)?.clone();
            Some(TournamentRow { group: cell.group, seed: cell.seed, ..row })
        });
        Ok(Verdicts { rows: rows.collect() })
    }

    fn check(&self, data: &Splits) -> Result<()> {
        self.network.check_splits(data)?;
        self.trainer.check(&[self.first_seed])?;
        positive("groups", self.groups)?;
        within("barrier_points", self.barrier_points, 2)?;
        let names: Vec<&str> = self.methods.iter().map(|method| method.name()).collect();
        let merges: Vec<String> = self.merges.iter().map(Merging::to_string).collect();
        let twice = |names: &[&str]| (1..names.len()).find(|&place| names[..place].contains(&names[place]));
        let merge_names: Vec<&str> = merges.iter().map(String::as_str).collect();
        for (setting, names) in [("methods", &names), ("merges", &merge_names)] {
            if names.is_empty() || twice(names).is_some() {
                let (value, requirement) = (format!("{names:?}"), "at least one, and no name twice");
                return Err(Error::Setting { setting, value, requirement });
            }
        }
        if self.counts.is_empty() || self.counts.iter().any(|&count| count < 2) {
            let (value, requirement) = (format!("{:?}", self.counts), "at least one number, each at least 2");
            return Err(Error::Setting { setting: "counts", value, requirement });
        }
        if self.seeds.is_empty() {
            let (value, requirement) = ("none".to_owned(), "at least one seed for the methods");
            return Err(Error::Setting { setting: "seeds", value, requirement });
        }
        Ok(())
    }

    /// All cells, those of a group side by side: its models are trained once.
    fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for group in 0..self.groups {
            for &count in &self.counts {
                for method in 0..self.methods.len() {
                    cells.extend(self.seeds.iter().map(|&seed| Cell { group, count, method, seed }));
                }
            }
        }
        cells
    }

    fn model_seeds(&self, group: usize) -> Vec<u64> {
        let size = self.counts.iter().copied().max().unwrap_or(0) as u64;
        (0..size).map(|place| self.first_seed.wrapping_add(group as u64 * size + place)).collect()
    }

    /// SHA-256 of all that decides a row.
    fn key(&self, cell: &Cell, merging: &Merging, digest: &str) -> String {
        let method = self.methods[cell.method].with(cell.seed, Progress::Silent);
        let seeds = &self.model_seeds(cell.group)[..cell.count];
        let all = json!({
            "network": self.network, "trainer": self.recipe(), "data": digest, "models": seeds,
            "method": format!("{method:?}"), "merge": format!("{merging:?}"), "barrier_points": self.barrier_points,
        });
        file::sha256(all.to_string().as_bytes())
    }

    /// What of the trainer decides the models.
    fn recipe(&self) -> String {
        let plain = Trainer {
            checkpoints: None,
            devices: Vec::new(),
            at_once: None,
            progress: Progress::Silent,
            ..self.trainer.clone()
        };
        format!("{plain:?}")
    }

    /// The models of a group, from their checkpoints where there is a file of results; or why they cannot be trained.
    fn models(&self, group: usize, data: &Splits, digest: &str) -> Result<Outcome<Vec<Model>>> {
        // Other settings have other folders beside the same file.
        let all = json!({ "network": self.network, "trainer": self.recipe(), "data": digest });
        let decides = file::sha256(all.to_string().as_bytes());
        let own = |path: &PathBuf| path.with_extension("models").join(&decides[..16]);
        let checkpoints = self.trainer.checkpoints.clone().or(self.results.as_ref().map(own));
        let trainer = Trainer { checkpoints, progress: self.progress, ..self.trainer.clone() };
        match trainer.train(&self.network, data, &self.model_seeds(group)) {
            Ok(training) => Ok(Ok(training.models)),
            Err(error @ (Error::NonFinite { .. } | Error::OutOfMemory(_))) => Ok(Err(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// One alignment, and every merge after it.
    fn measure(
        &self,
        cell: &Cell,
        merges: &[&Merging],
        models: &[Model],
        data: &Splits,
    ) -> Result<Vec<Outcome<Measured>>> {
        let method = self.methods[cell.method].with(cell.seed, self.progress);
        let (alignment, peak_memory) = memory::measured(|| method.align(models, data));
        let alignment = alignment?;
        let aligned = alignment.apply(models)?;
        let walk =
            Interpolation { points: self.barrier_points, progress: Progress::Silent, ..Interpolation::default() };
        let curves = walk.barriers(&alignment.method, &aligned, data)?.curves;
        let barriers: Vec<f64> = curves.iter().map(super::Curve::loss_barrier).collect();
        let own = models.iter().map(|model| Ok(loss_and_accuracy(&self.network, &model.params, &data.test)?.0));
        let own = own.collect::<Result<Vec<f64>>>()?;
        let (ensemble_loss, _) = ensemble(models, &data.test)?;
        let finite = |what: &str, value: f64| match value.is_finite() {
            true => Ok(value),
            false => Err(Error::NonFinite { tensor: what.to_owned(), hint: crate::error::RETRAIN }),
        };
        let worst_barrier = finite("a barrier", crate::evaluate::highest(barriers.iter().copied()))?;
        let merged = merges.iter().map(|merging| {
            let start = Instant::now();
            let merged = merging.merge(&aligned, data)?;
            let merge_seconds = start.elapsed().as_secs_f64();
            let (test_loss, test_accuracy) = loss_and_accuracy(&self.network, &merged.params, &data.test)?;
            Ok(Measured {
                test_loss: finite("the loss of the merge", test_loss)?,
                test_accuracy,
                models_loss: own.iter().sum::<f64>() / own.len() as f64,
                ensemble_loss,
                mean_barrier: barriers.iter().sum::<f64>() / barriers.len() as f64,
                worst_barrier,
                seconds: alignment.seconds,
                merge_seconds,
                peak_memory,
            })
        });
        merged.map(uninterrupted).collect()
    }
}

/// What came out, or the words of the error that a row holds.
type Outcome<T> = std::result::Result<T, String>;

/// An interrupt ends the tournament; every other error is one of the row.
fn uninterrupted<T>(result: Result<T>) -> Result<Outcome<T>> {
    match result {
        Err(interrupt @ Error::Interrupted { .. }) => Err(interrupt),
        other => Ok(other.map_err(|error| error.to_string())),
    }
}

/// One alignment of a tournament.
struct Cell {
    group: usize,
    count: usize,
    method: usize,
    seed: u64,
}
