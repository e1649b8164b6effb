//! Cycle-consistent matching of many models by Frank-Wolfe (C2M3; Crisostomi et al. 2024).
//!
//! Every model `i` has a doubly stochastic matrix `X_i` for each group, to a frame that belongs to none of them. They climb
//! `f(X) = Σ_{i<j} <X_i θ_i, X_j θ_j>`: the permutations that the gradient of a model's matrices likes best give a direction, and
//! `f` along it is a parabola whose highest point is known exactly. The models take turns (block-coordinate Frank-Wolfe): all at
//! once they run past each other, each to where another has been. In the end each matrix becomes the nearest permutation. Whatever
//! way one goes round from model to model, the permutations compose to the identity.

use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::gain::Gain;
use super::matcher::Report;
use super::soft::{SoftMaps, Start};
use super::{Aligner, Alignment, AssignmentSolver, Found, Method, Permutations, Record, assignment_of, solve};
use crate::data::Splits;
use crate::error::Result;
use crate::network::{Model, Params, PermutationSpec, check_models};
use crate::progress::{Progress, Task};
use crate::rng::{Purpose, rng};
use crate::train::{Precision, within};

/// Settings of the Frank-Wolfe matching; needs no data.
///
/// ```
/// use stemm::prelude::*;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let models: Vec<Model> =
///     (0..3).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?)).collect::<stemm::Result<_>>()?;
/// let data = blobs(0, Device::Cpu)?; // not looked at
/// let alignment = FrankWolfe::default().align(&models, &data)?;
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrankWolfe {
    /// Where the first search begins.
    pub start: Start,
    /// Number of searches, those after the first from random matrices; the one with the highest objective is the result.
    pub starts: usize,
    /// At most so many steps a search.
    pub max_steps: usize,
    /// Seed of the random starts.
    pub seed: u64,
    /// Where progress is shown.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for FrankWolfe {
    fn default() -> Self {
        FrankWolfe { start: Start::Identity, starts: 1, max_steps: 200, seed: 0, progress: Progress::default() }
    }
}

/// A search ends after so many steps in a row whose gain is below this share of the objective.
const TOLERANCE: f64 = 1e-6;
const PATIENCE: usize = 5;

impl Aligner for FrankWolfe {
    fn name(&self) -> &str {
        "frank-wolfe"
    }

    fn check(&self) -> Result<()> {
        within("starts", self.starts, 1)?;
        within("max_steps", self.max_steps, 1)
    }

    fn align(&self, models: &[Model], _data: &Splits) -> Result<Alignment> {
        check_models("Frank-Wolfe matching", models, 2)?;
        self.check()?;
        let _guard = tch::no_grad_guard();
        let begin = Instant::now();
        let spec = models[0].network.permutation_spec();
        let sets: Vec<&Params> = models.iter().map(|model| &model.params).collect();
        let mut rng = rng(self.seed, Purpose::Landscape);
        let total = self.starts.saturating_mul(self.max_steps);
        let mut task = self.progress.task(format!("{}, {} models", self.name(), models.len()), total);
        let mut best: Option<(f64, Found)> = None;
        for number in 0..self.starts {
            let start = if number == 0 { self.start } else { Start::Random };
            let found = self.search(&spec, &sets, start, &mut rng, &mut task)?;
            let permuted = found.permutations.iter().zip(&sets).map(|(own, set)| own.apply(&spec, set));
            let objective = objective(&permuted.collect::<Result<Vec<_>>>()?.iter().collect::<Vec<_>>())?;
            if best.as_ref().is_none_or(|(highest, _)| objective > *highest) {
                best = Some((objective, found));
            }
        }
        task.finish();
        best.map(|(_, found)| found).unwrap_or_default().alignment(self, begin)
    }

    fn with(&self, seed: u64, progress: Progress) -> Method {
        FrankWolfe { seed, progress, ..self.clone() }.into()
    }
}

/// A model on its way.
struct Mover<'a> {
    params: &'a Params,
    maps: SoftMaps,
    /// One a group; consecutive gradients are alike.
    solvers: Vec<AssignmentSolver>,
    /// The parameters as they are mapped now.
    mapped: Params,
}

impl FrankWolfe {
    fn search(
        &self,
        spec: &PermutationSpec,
        sets: &[&Params],
        start: Start,
        rng: &mut ChaCha8Rng,
        task: &mut Task,
    ) -> Result<Found> {
        let gains: Vec<Gain> = (0..spec.groups().len()).map(|group| Gain::new(spec, group, Precision::F32)).collect();
        let mut movers = sets.iter().map(|params| {
            let maps = SoftMaps::start(spec, start, rng, (params.kind(), params.device()))?;
            let mapped = maps.apply(spec, &params.without_buffers())?;
            let solvers = spec.groups().iter().map(|group| AssignmentSolver::new(group.size)).collect();
            Ok(Mover { params, maps, solvers, mapped })
        });
        let mut movers = movers.by_ref().collect::<Result<Vec<Mover>>>()?;
        let mut objective = objective(&movers.iter().map(|mover| &mover.mapped).collect::<Vec<_>>())?;
        let (mut history, mut small) = (Vec::new(), 0);
        while history.len() < self.max_steps && small < PATIENCE {
            let begin = Instant::now();
            let mut report = Report { sweeps: 1, ..Report::default() };
            let mut gained = 0.0;
            for index in 0..movers.len() {
                let others = movers.iter().enumerate().filter(|(other, _)| *other != index);
                let others = sum(others.map(|(_, mover)| &mover.mapped))?;
                gained += movers[index].climb(spec, &gains, &others, &mut report)?;
            }
            small = if gained < TOLERANCE * objective.abs() { small + 1 } else { 0 };
            objective += gained;
            let record = Record::sweep(history.len() + 1, objective, &report);
            history.push(Record { seconds: begin.elapsed().as_secs_f64(), ..record });
            task.step(|| format!("objective {objective:.4}"))?;
        }
        task.spare(self.max_steps - history.len());
        let nearest = |mover: &Mover| mover.maps.0.iter().map(assignment_of).collect::<Result<_>>().map(Permutations);
        let permutations = movers.iter().map(nearest).collect::<Result<_>>()?;
        Ok(Found { permutations, history, converged: small >= PATIENCE })
    }
}

impl Mover<'_> {
    /// Goes towards the permutations that raise the objective most, as far as its gradient tells, and as far as it rises; returns
    /// by how much.
    fn climb(&mut self, spec: &PermutationSpec, gains: &[Gain], others: &Params, report: &mut Report) -> Result<f64> {
        let corner = self.best_corner(spec, gains, others, report)?;
        let [linear, mut square] = self.towards(spec, &corner)?;
        let curve = [others.dot(&linear)?, others.dot(&square)?];
        let step = highest(curve);
        if step > 0.0 {
            self.maps = self.maps.between(&corner, step)?;
            for ((square, linear), mapped) in square.all_mut().zip(linear.tensors()).zip(self.mapped.tensors()) {
                let _ = square.f_mul_scalar_(step)?.f_add_(linear)?.f_mul_scalar_(step)?.f_add_(mapped)?;
            }
            self.mapped = square;
            report.moved_groups += corner.0.len();
        }
        Ok(step * (curve[0] + step * curve[1]))
    }

    fn best_corner(
        &mut self,
        spec: &PermutationSpec,
        gains: &[Gain],
        others: &Params,
        report: &mut Report,
    ) -> Result<Permutations> {
        let corners = gains.iter().zip(&mut self.solvers).map(|(gain, solver)| {
            crate::progress::check()?;
            let gradient = gain.soft(spec, self.params, others, &self.maps)?;
            let begin = Instant::now();
            let corner = solve(solver, &gradient)?;
            report.assignment += begin.elapsed();
            report.solved_groups += 1;
            Ok(corner)
        });
        Ok(Permutations(corners.collect::<Result<_>>()?))
    }

    /// What changes along the way: the parameters are `mapped + γ linear + γ² square`, exactly, for a tensor has at most two axes
    /// that groups move.
    fn towards(&self, spec: &PermutationSpec, corner: &Permutations) -> Result<[Params; 2]> {
        let params = self.params.without_buffers();
        let half = self.maps.between(corner, 0.5)?.apply(spec, &params)?;
        let (mut linear, mut square) = (Vec::new(), Vec::new());
        let places = spec.axes().iter().zip(params.tensors()).zip(half.tensors()).zip(self.mapped.tensors());
        for (((axes, tensor), half), mapped) in places {
            // The parabola through the places 0, 1/2 and 1.
            let mut end = corner.apply_to_tensor(axes, tensor, None)?.f_sub(mapped)?;
            let first = half.f_sub(mapped)?.f_mul_scalar_(4.0)?.f_sub_(&end)?;
            square.push(end.f_sub_(&first)?);
            linear.push(first);
        }
        Ok([params.with(linear), params.with(square)])
    }
}

/// `Σ_{i<j} <θ_i, θ_j> = (|Σ θ_i|² - Σ |θ_i|²) / 2`.
fn objective(sets: &[&Params]) -> Result<f64> {
    let all = sum(sets.iter().copied())?;
    let own = sets.iter().map(|set| set.dot(set)).sum::<Result<f64>>()?;
    Ok((all.dot(&all)? - own) / 2.0)
}

fn sum<'a>(sets: impl Iterator<Item = &'a Params>) -> Result<Params> {
    let sets: Vec<&Params> = sets.collect();
    Params::weighted_sum(&sets, &vec![1.0; sets.len()])
}

/// The place in 0..=1 where `linear γ + square γ²` is highest; of equal ones the first.
fn highest([linear, square]: [f64; 2]) -> f64 {
    let value = |at: f64| at * (linear + at * square);
    let turn = if square < 0.0 { (-linear / (2.0 * square)).clamp(0.0, 1.0) } else { 0.0 };
    [turn, 1.0].into_iter().fold(0.0, |best, place| if value(place) > value(best) { place } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use tch::Device;

    #[test]
    fn the_highest_point_of_a_parabola_is_inside_or_at_an_end() {
        for (curve, expected) in [
            ([1.0, 0.0], 1.0),
            ([-1.0, 0.0], 0.0),
            ([0.0, 0.0], 0.0),
            ([1.0, -1.0], 0.5),
            ([1.0, -0.4], 1.0),
            ([-1.0, 3.0], 1.0),
            ([-1.0, 0.5], 0.0),
            ([-1.0, -1.0], 0.0),
        ] {
            assert_eq!(highest(curve), expected, "{curve:?}");
        }
    }

    #[test]
    fn parameters_on_the_way_are_those_of_the_matrices_on_the_way_and_the_gain_is_that_of_the_objective() -> Result<()>
    {
        let network = Network::convnet([1, 8, 8], 0.5, 3)?;
        let spec = network.permutation_spec();
        let sets: Vec<Params> =
            (0..2).map(|seed| Ok(network.init(seed, Device::Cpu)?.without_buffers())).collect::<Result<_>>()?;
        let gains: Vec<Gain> = (0..spec.groups().len()).map(|group| Gain::new(&spec, group, Precision::F32)).collect();
        let options = (sets[0].kind(), Device::Cpu);
        let maps = SoftMaps::start(&spec, Start::Random, &mut rng(0, Purpose::Landscape), options)?;
        let solvers = spec.groups().iter().map(|group| AssignmentSolver::new(group.size)).collect();
        let mut mover = Mover { params: &sets[1], mapped: maps.apply(&spec, &sets[1])?, maps, solvers };
        let corner = mover.best_corner(&spec, &gains, &sets[0], &mut Report::default())?;
        let [linear, square] = mover.towards(&spec, &corner)?;
        for step in [0.0, 0.3, 1.0] {
            let ours = Params::weighted_sum(&[&mover.mapped, &linear, &square], &[1.0, step, step * step])?;
            let exact = mover.maps.between(&corner, step)?.apply(&spec, &sets[1])?;
            for (a, b) in ours.tensors().iter().zip(exact.tensors()) {
                assert!((a - b).abs().max().double_value(&[]) < 1e-5, "{step}");
            }
        }
        let before = sets[0].dot(&mover.mapped)?;
        let gained = mover.climb(&spec, &gains, &sets[0], &mut Report::default())?;
        let after = sets[0].dot(&mover.maps.apply(&spec, &sets[1])?)?;
        assert!(gained > 0.0 && (after - before - gained).abs() < 1e-5 * after, "{before} {after} {gained}");
        Ok(())
    }
}
