//! Alignment: finding permutations that bring several models into one basin. One trait, one result.

mod activation_matching;
mod assignment;
mod frank_wolfe;
mod gain;
mod matcher;
mod method;
mod permutation;
#[cfg(test)]
mod reference;
mod saved;
mod sinkhorn;
mod soft;
mod ste_mm;
mod weight_matching;

pub use activation_matching::{ActivationMatching, MatchTo, Similarity};
pub use assignment::AssignmentSolver;
pub use frank_wolfe::FrankWolfe;
pub use method::Method;
pub use permutation::{Permutation, Permutations};
pub use sinkhorn::{Sinkhorn, SinkhornLoss};
pub use soft::Start;
pub use ste_mm::{Mixing, SteMm};
pub use weight_matching::{Solver, WeightMatching};

use std::path::Path;
use std::time::Instant;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::chart::{Chart, Lines, Series};
use crate::data::{Dataset, Splits};
use crate::error::{Error, Result};
use crate::file::{Checkpoint, digest_of};
use crate::frame::{column, frame};
use crate::merge::merge;
use crate::network::{Model, PermutationSpec, check_models};
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;
use crate::slice;
use matcher::Report;

/// A method that aligns models; its settings show as it is printed.
pub trait Aligner: std::fmt::Debug {
    /// Name of the method in tables and charts.
    fn name(&self) -> &str;

    /// Finds one set of permutations a model; the first model is the reference. Methods that need no data ignore it.
    ///
    /// # Errors
    /// Fewer than two models, models of different networks, NaN weights, settings out of range.
    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment>;

    /// Refuses settings out of range, before there are any models; [`Aligner::align`] does so as well.
    ///
    /// # Errors
    /// A setting out of range. Without a form of its own, none.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The same method with another seed and another place for its progress.
    fn with(&self, seed: u64, progress: Progress) -> Method;
}

/// No alignment at all, as a method: what others are compared with.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// assert_eq!(Naive.align(&[model(0)?, model(1)?], &data)?.method, "naive");
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Naive;

impl Aligner for Naive {
    fn name(&self) -> &str {
        "naive"
    }

    fn align(&self, models: &[Model], _data: &Splits) -> Result<Alignment> {
        Alignment::naive(models)
    }

    fn with(&self, _seed: u64, _progress: Progress) -> Method {
        (*self).into()
    }
}

/// Permutations of several models to the frame of the first, and how they were found.
#[derive(Clone, Debug)]
pub struct Alignment {
    /// Name of the method.
    pub method: String,
    /// One set a model; the first is the identity.
    pub permutations: Vec<Permutations>,
    /// One record a sweep (weight matching, activation matching), step (Frank-Wolfe, Sinkhorn) or epoch (STE-MM).
    pub history: Vec<Record>,
    /// Time it took.
    pub seconds: f64,
    /// Whether the search came to an end of its own: no cap on the number of sweeps or of Frank-Wolfe's steps was hit; Sinkhorn's matrices
    /// have more than half of each unit in one place.
    pub converged: bool,
}

/// One sweep or epoch of an alignment; what a method does not measure is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Sweep, step or epoch, from 1.
    pub round: usize,
    /// What the method climbs: the sum of inner products over all pairs of models (weight matching, Frank-Wolfe), of similarities
    /// (activation matching), or minus the sum of squared distances (Sinkhorn).
    #[serde(with = "crate::file::any_option")]
    pub objective: Option<f64>,
    /// STE-MM and Sinkhorn: mean loss of the mixtures on training batches, in nats.
    #[serde(with = "crate::file::any_option")]
    pub mixture_loss: Option<f64>,
    /// STE-MM: accuracy of the random mixtures on training batches.
    #[serde(with = "crate::file::any_option")]
    pub mixture_accuracy: Option<f64>,
    /// STE-MM: held-out loss of the merged network, in nats.
    #[serde(with = "crate::file::any_option")]
    pub merged_loss: Option<f64>,
    /// STE-MM: held-out accuracy of the merged network.
    #[serde(with = "crate::file::any_option")]
    pub merged_accuracy: Option<f64>,
    /// Sweeps over the groups.
    pub sweeps: usize,
    /// Assignment problems solved.
    pub solved_groups: usize,
    /// Of these, how many changed a permutation.
    pub moved_groups: usize,
    /// Time in the assignment solver.
    #[serde(with = "crate::file::any_float")]
    pub assignment_seconds: f64,
    /// Time of the whole round; 0 for sweeps of weight and activation matching.
    #[serde(with = "crate::file::any_float")]
    pub seconds: f64,
}

impl Record {
    pub(crate) fn sweep(round: usize, objective: f64, report: &Report) -> Record {
        Record {
            round,
            objective: Some(objective).filter(|value| value.is_finite()),
            sweeps: report.sweeps,
            solved_groups: report.solved_groups,
            moved_groups: report.moved_groups,
            assignment_seconds: report.assignment.as_secs_f64(),
            ..Record::default()
        }
    }
}

impl Alignment {
    /// No alignment at all: the identity for each model, to compare with.
    pub fn naive(models: &[Model]) -> Result<Alignment> {
        check_models("an alignment", models, 1)?;
        let identity = Permutations::identity(&models[0].network.permutation_spec());
        Ok(Alignment {
            method: "naive".to_owned(),
            permutations: vec![identity; models.len()],
            history: Vec::new(),
            seconds: 0.0,
            converged: true,
        })
    }

    /// The models with their units permuted; each computes the same function as before.
    ///
    /// # Errors
    /// Another number of models than was aligned, or models of another network.
    pub fn apply(&self, models: &[Model]) -> Result<Vec<Model>> {
        check_models("applying an alignment", models, 1)?;
        let spec = models[0].network.permutation_spec();
        self.check(models.len(), &spec)?;
        let permuted = models
            .iter()
            .zip(&self.permutations)
            .map(|(model, own)| Ok(Model { network: model.network.clone(), params: own.apply(&spec, &model.params)? }));
        permuted.collect()
    }

    /// Checks that there is one set of permutations a model, and that each fits the network.
    pub(crate) fn check(&self, models: usize, spec: &PermutationSpec) -> Result<()> {
        if models != self.permutations.len() {
            let reason = format!("{} models were aligned, {models} are given", self.permutations.len());
            return Err(Error::Permutation { reason });
        }
        self.permutations.iter().try_for_each(|own| own.check(spec))
    }

    /// The mean of the permuted models; running statistics of batch norm are recomputed on `data`, the training data.
    pub fn merge(&self, models: &[Model], data: &Dataset) -> Result<Model> {
        merge(&self.apply(models)?, data)
    }

    /// The history: one row a sweep or epoch.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.history;
        frame([
            column("round", rows.iter().map(|row| row.round as u64)),
            column("objective", rows.iter().map(|row| row.objective)),
            column("mixture_loss_nats", rows.iter().map(|row| row.mixture_loss)),
            column("mixture_accuracy", rows.iter().map(|row| row.mixture_accuracy)),
            column("merged_held_out_loss_nats", rows.iter().map(|row| row.merged_loss)),
            column("merged_held_out_accuracy", rows.iter().map(|row| row.merged_accuracy)),
            column("sweeps", rows.iter().map(|row| row.sweeps as u64)),
            column("solved_groups", rows.iter().map(|row| row.solved_groups as u64)),
            column("moved_groups", rows.iter().map(|row| row.moved_groups as u64)),
            column("assignment_seconds", rows.iter().map(|row| row.assignment_seconds)),
        ])
    }

    /// The objective by sweep, or the losses by epoch.
    pub fn chart(&self) -> Chart {
        let points = |value: fn(&Record) -> Option<f64>| -> Vec<(f64, f64)> {
            self.history.iter().filter_map(|row| Some((row.round as f64, value(row)?))).collect()
        };
        let title = format!("Alignment by {}", self.method);
        let objective = points(|row| row.objective);
        if objective.is_empty() {
            let mixtures = Series::new("mixtures, train", points(|row| row.mixture_loss)).dashed();
            let merged = points(|row| row.merged_loss);
            let merged = (!merged.is_empty()).then(|| Series::new("merged, held out", merged));
            Lines::new(title, "round", "loss (nats)").series(merged.into_iter().chain([mixtures])).into()
        } else {
            Lines::new(title, "round", "objective").series([Series::new("objective", objective)]).into()
        }
    }
}

/// All pairs of `n` models, the first before the second.
pub(crate) fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |from| (from + 1..n).map(move |to| (from, to)))
}

/// Where a search ended, in whatever frame.
#[derive(Default)]
struct Found {
    permutations: Vec<Permutations>,
    history: Vec<Record>,
    converged: bool,
}

impl Found {
    /// The alignment: the permutations moved together so that the first model keeps its units.
    fn alignment(self, method: &dyn Aligner, start: Instant) -> Result<Alignment> {
        let first = self.permutations.first().map(|own| own.0.as_slice()).unwrap_or_default();
        let back: Vec<Permutation> = first.iter().map(Permutation::inverse).collect();
        let moved = self.permutations.iter().map(|own| {
            let own = own.0.iter().zip(&back).map(|(own, back)| own.then(back));
            Ok(Permutations(own.collect::<Result<_>>()?))
        });
        Ok(Alignment {
            method: method.name().to_owned(),
            permutations: moved.collect::<Result<_>>()?,
            history: self.history,
            seconds: start.elapsed().as_secs_f64(),
            converged: self.converged,
        })
    }
}

/// The checkpoint of an alignment of some models on some data, if there is a folder for it. `capped` is the setting that only says how
/// far it goes.
fn checkpoint_of(
    folder: Option<&Path>,
    name: &str,
    (settings, capped): (&impl Serialize, &str),
    models: &[Model],
    data: &Splits,
) -> Result<Option<Checkpoint>> {
    let Some(folder) = folder else { return Ok(None) };
    let mut settings = serde_json::to_value(settings).unwrap_or_default(); // as `file::to_json`: no failing `Serialize`
    if let Some(settings) = settings.as_object_mut() {
        settings.remove(capped);
        settings.insert("models".to_owned(), digest_of(models.iter().flat_map(|model| model.params.all()))?.into());
        settings.insert("data".to_owned(), data.training_digest()?.into());
    }
    Ok(Some(Checkpoint::new(folder, name, &settings)))
}

/// The permutation with the largest sum of entries of a gain matrix `[n, n]`, one a row.
fn assignment_of(gain: &Tensor) -> Result<Permutation> {
    solve(&mut AssignmentSolver::new(gain.size()[0] as usize), gain)
}

/// The same by a solver that has seen similar matrices.
fn solve(solver: &mut AssignmentSolver, gain: &Tensor) -> Result<Permutation> {
    let gain = gain.f_detach()?.f_to_kind(Kind::Float)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    solver.solve(slice::values(&gain).unwrap_or_default())?;
    Ok(solver.permutation())
}

impl Show for Alignment {
    fn look(&self) -> Bundle {
        let end = if self.converged { "converged" } else { "not converged: more sweeps or steps may help" };
        let remark = format!("{}: {} models, {:.1} s, {end}", self.method, self.permutations.len(), self.seconds);
        Bundle::table(&self.frame(), &remark)
    }
}
