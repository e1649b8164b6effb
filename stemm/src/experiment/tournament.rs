//! The referee: all methods on the same models, over groups of models that share none, with standard errors.

use std::collections::HashSet;
use std::hash::Hash;
use std::path::PathBuf;

use super::{Bench, Data, Entry, Experiment, Store, Verdicts, size_of};
use crate::align::{ActivationMatching, Aligner, FrankWolfe, Method, Naive, SteMm, WeightMatching};
use crate::analysis::Hutchinson;
use crate::data::Splits;
use crate::error::{Error, Result};
use crate::merge::Merging;
use crate::network::Network;
use crate::progress::Progress;
use crate::train::{Trainer, within};

/// Settings of a tournament: every method aligns the first `n` models of every group, and every merge makes one of them.
///
/// It is a list of [`Experiment`]s. With a folder for the results it can be interrupted, killed and run again: what is there, models,
/// alignments and rows, is not made a second time, unless a row holds an error.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let tournament = Tournament {
///     trainer: Trainer { epochs: 3, batch_size: 64, ..Trainer::default() },
///     methods: vec![Naive.into(), WeightMatching::default().into()],
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
    pub methods: Vec<Method>,
    /// The ways of merging.
    pub merges: Vec<Merging>,
    /// Numbers of models that are merged; a group has as many models as the largest. 1 is the first model itself, under the name of
    /// the naive mean.
    pub counts: Vec<usize>,
    /// Groups of models, none of which is in two of them: what standard errors are taken over.
    pub groups: usize,
    /// Seed of the first model; the others follow.
    pub first_seed: u64,
    /// Seeds of each method, in the place of its own.
    pub seeds: Vec<u64>,
    /// Places on the line between each pair of aligned models.
    pub barrier_points: usize,
    /// Which trace of the Hessian of each merge is estimated, if any; it takes longer than everything else.
    pub trace: Option<Hutchinson>,
    /// Folder for rows, alignments and models, which several tournaments, plans and processes can share ([`Store`]).
    pub results: Option<PathBuf>,
    /// Where progress is shown.
    pub progress: Progress,
}

/// Experiments of a tournament, at most.
const MOST: usize = 1_000_000;
/// Seeds of models that all of them name, at most: they fit into memory.
const MOST_MODELS: usize = 10_000_000;

/// Whether a list names something twice.
fn twice<T: Eq + Hash>(list: &[T]) -> bool {
    list.iter().collect::<HashSet<_>>().len() < list.len()
}

impl Tournament {
    /// A tournament of all methods that take no gradients, and STE-MM, by the mean of 2, 3 and 5 models of five groups.
    pub fn new(network: Network) -> Tournament {
        let methods = vec![
            Naive.into(),
            WeightMatching::default().into(),
            ActivationMatching::default().into(),
            FrankWolfe::default().into(),
            SteMm::default().into(),
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
            trace: None,
            results: None,
            progress: Progress::default(),
        }
    }

    /// Measures whatever is not in the folder of results yet.
    ///
    /// An experiment that fails has a row with the error, and the others go on; so has one whose models cannot be trained.
    ///
    /// # Errors
    /// Settings out of range, data that do not fit, a file that cannot be read or written, an interrupt: then call it again.
    pub fn run(&self, data: &Splits) -> Result<Verdicts> {
        self.network.check_splits(data)?;
        let label = format!("{} parameters", size_of(&self.network));
        let entries = self.entries(&Data::Given(data.digest()?), data.train.name(), &label)?;
        let store = self.results.as_ref().map(Store::open).transpose()?;
        let mut bench = match &store {
            Some(store) => Bench::kept_in(data, store),
            None => Bench::new(data),
        };
        let Trainer { devices, at_once, .. } = self.trainer.clone();
        (bench.devices, bench.at_once, bench.progress) = (devices, at_once, self.progress);
        Ok(Verdicts { rows: bench.run_all(&entries)? })
    }

    /// Its experiments on some data, by group, number of models, method, seed and merge.
    ///
    /// # Errors
    /// Settings out of range.
    pub fn entries(&self, data: &Data, data_name: &str, network_name: &str) -> Result<Vec<Entry>> {
        self.check()?;
        let (alone, itself) = ([Method::Naive], [Merging::Mean]);
        let mut entries = Vec::new();
        for group in 0..self.groups {
            let models = self.model_seeds(group);
            for &count in &self.counts {
                // One model is merged with nothing: methods and merges do not differ.
                let (methods, merges) = match count {
                    1 => (&alone[..], &itself[..]),
                    _ => (&self.methods[..], &self.merges[..]),
                };
                for method in methods {
                    for &seed in &self.seeds {
                        entries.extend(merges.iter().map(|merge| {
                            let experiment = Experiment {
                                data: data.clone(),
                                network: self.network.clone(),
                                trainer: self.trainer.clone(),
                                models: models[..count].to_vec(),
                                method: method.with(seed, Progress::Silent),
                                seed,
                                merge: merge.clone(),
                                barrier_points: self.barrier_points,
                                trace: self.trace.clone(),
                            };
                            Entry { experiment, data: data_name.to_owned(), network: network_name.to_owned(), group }
                        }));
                    }
                }
            }
        }
        Ok(entries)
    }

    fn check(&self) -> Result<()> {
        self.trainer.check(&[self.first_seed])?;
        within("groups", self.groups, 1)?;
        within("barrier_points", self.barrier_points, 2)?;
        let names: Vec<&str> = self.methods.iter().map(|method| method.name()).collect();
        let merges: Vec<String> = self.merges.iter().map(Merging::to_string).collect();
        let merge_names: Vec<&str> = merges.iter().map(String::as_str).collect();
        for (setting, names) in [("methods", &names), ("merges", &merge_names)] {
            if names.is_empty() || twice(names) {
                let (value, requirement) = (format!("{names:?}"), "at least one, and no name twice");
                return Err(Error::Setting { setting, value, requirement });
            }
        }
        self.check_parts()?;
        let wrong = |setting, value, requirement| Err(Error::Setting { setting, value, requirement });
        if self.counts.is_empty() || self.counts.contains(&0) || twice(&self.counts) {
            return wrong(
                "counts",
                format!("{:?}", self.counts),
                "at least one number, each at least 1 and none twice",
            );
        }
        if self.seeds.is_empty() || twice(&self.seeds) {
            return wrong("seeds", format!("{:?}", self.seeds), "at least one seed for the methods, and none twice");
        }
        self.counts.iter().try_for_each(|&count| within("counts", count, 1))?;
        let lists = [self.methods.len(), self.merges.len(), self.seeds.len()];
        let cells = lists.iter().try_fold(self.groups, |all, &length| all.checked_mul(length));
        let times = |each: usize| cells.and_then(|cells| cells.checked_mul(each)).unwrap_or(usize::MAX);
        if times(self.counts.len()) > MOST {
            return wrong("groups", self.groups.to_string(), "few enough for a million experiments in all");
        }
        if times(self.counts.iter().sum()) > MOST_MODELS {
            let value = format!("{:?}", self.counts);
            return wrong(
                "counts",
                value,
                "few enough, with `groups`, for ten million models in all experiments together",
            );
        }
        Ok(())
    }

    /// Refuses settings of its methods, merges and trace before anything is trained.
    fn check_parts(&self) -> Result<()> {
        let of = |setting: &'static str, name: &str, checked: Result<()>| match checked {
            Err(Error::Setting { setting: inner, value, requirement }) => {
                Err(Error::Setting { setting, value: format!("{name} with `{inner}` {value}"), requirement })
            }
            other => other,
        };
        for method in &self.methods {
            of("methods", method.name(), method.check())?;
            if let Some(seed) = method.seed().filter(|&seed| seed != 0) {
                let value = format!("{} with `seed` {seed}", method.name());
                let requirement = "without seeds of their own: give them as `seeds`";
                return Err(Error::Setting { setting: "methods", value, requirement });
            }
        }
        self.merges.iter().try_for_each(|merge| of("merges", &merge.to_string(), merge.check()))?;
        let parameters = size_of(&self.network) as usize;
        self.trace.as_ref().map_or(Ok(()), |trace| of("trace", "an estimate", trace.check(parameters)))
    }

    fn model_seeds(&self, group: usize) -> Vec<u64> {
        let size = self.counts.iter().copied().max().unwrap_or(0) as u64;
        (0..size).map(|place| self.first_seed.wrapping_add(group as u64 * size + place)).collect()
    }
}
