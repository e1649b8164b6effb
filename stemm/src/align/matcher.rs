//! Coordinate ascent over the groups of one model towards a target: the core of weight matching and of STE-MM.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::gain::Gain;
use super::{AssignmentSolver, Permutation, Permutations, Solver};
use crate::error::Result;
use crate::network::{Params, PermutationSpec, dot};
use crate::progress;
use crate::slice;
use crate::train::Precision;

/// A relative gain below this is within the rounding of the f32 gain matrix, and no progress.
const ROUNDING: f64 = 1e-7;

/// What a sweep or a fit did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub sweeps: usize,
    /// Assignment problems solved.
    pub solved_groups: usize,
    /// Of these, how many changed the permutation.
    pub moved_groups: usize,
    /// Time in the assignment solver.
    pub assignment: Duration,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.sweeps += other.sweeps;
        self.solved_groups += other.solved_groups;
        self.moved_groups += other.moved_groups;
        self.assignment += other.assignment;
    }
}

/// Matches one model to targets that change from call to call, remembering permutations and duals.
pub(crate) struct Matcher<'a> {
    spec: &'a PermutationSpec,
    model: Params,
    permutations: Permutations,
    solver: Solver,
    max_sweeps: usize,
    groups: Vec<Group>,
    /// What the gain matrices belong to.
    target: Option<Params>,
    /// Whether the gain matrices are elsewhere, and only those that must be solved come to the solver.
    on_device: bool,
    /// Counts solutions.
    clock: usize,
}

struct Group {
    solver: AssignmentSolver,
    gain: Gain,
    /// Whether a tensor has the group on two axes, as a convolution inside a sum does: then the objective is not linear in
    /// its permutation, and the gain matrix only says how it changes with one axis held.
    coupled: bool,
    /// When the permutation last changed, and when it was last found optimal.
    moved_at: usize,
    solved_at: Option<usize>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(
        spec: &'a PermutationSpec,
        model: &Params,
        solver: Solver,
        precision: Precision,
        max_sweeps: usize,
    ) -> Matcher<'a> {
        let groups = (0..spec.groups().len()).map(|index| {
            let members = spec.members(index);
            let coupled =
                members.windows(2).any(|pair| pair[0].tensor == pair[1].tensor && pair[0].axis != pair[1].axis);
            let solver = AssignmentSolver::new(spec.groups()[index].size);
            Group { solver, coupled, gain: Gain::new(spec, index, precision), moved_at: 0, solved_at: None }
        });
        Matcher {
            groups: groups.collect(),
            spec,
            model: model.clone(),
            permutations: Permutations::identity(spec),
            solver,
            max_sweeps,
            target: None,
            on_device: model.device() != Device::Cpu,
            clock: 0,
        }
    }

    pub(crate) fn permutations(&self) -> &Permutations {
        &self.permutations
    }

    /// Goes on from other permutations.
    pub(crate) fn set_permutations(&mut self, permutations: Permutations) {
        self.permutations = permutations;
    }

    /// Forgets the duals of earlier solutions.
    pub(crate) fn forget(&mut self) {
        self.groups.iter_mut().for_each(|group| group.solver.forget());
    }

    /// `π(θ; P)` with the permutations found so far.
    pub(crate) fn permuted(&self) -> Result<Params> {
        self.permutations.apply(self.spec, &self.model)
    }

    /// `sum += weight * π(θ; P)`, one tensor at a time.
    pub(crate) fn add_permuted(&self, sum: &mut Params, weight: f64) -> Result<()> {
        let axes = self.spec.axes().iter().chain(self.spec.buffer_axes());
        for ((axes, tensor), sum) in axes.zip(self.model.all()).zip(sum.all_mut()) {
            self.permutations.add_to(sum, axes, tensor, weight)?;
        }
        Ok(())
    }

    /// Matches to `target`, starting from the permutations found so far, until a sweep changes nothing.
    ///
    /// Keeps only permutations and duals: with many models the gain matrices of all would fill the memory.
    pub(crate) fn fit(&mut self, target: &Params, order: &mut ChaCha8Rng) -> Result<Report> {
        self.set_target(target);
        let report = self.ascend(order);
        self.target = None;
        self.groups.iter_mut().for_each(|group| group.gain.clear());
        report
    }

    /// A target of which nothing is known: every term is out of date.
    pub(super) fn set_target(&mut self, target: &Params) {
        self.target = Some(target.clone());
        for group in &mut self.groups {
            group.solved_at = None;
            group.gain.clear();
        }
    }

    /// A target that differs from the one before only in some units of each group: only their share is computed again.
    pub(super) fn change_target(&mut self, target: &Params, changed: &[Vec<i64>]) -> Result<()> {
        let before = self.target.replace(target.clone());
        for group in &mut self.groups {
            group.solved_at = None;
            match &before {
                Some(before) => group.gain.follow_target(self.spec, &self.model, [before, target], changed)?,
                None => group.gain.clear(),
            }
        }
        Ok(())
    }

    /// Sweeps until one changes nothing.
    pub(super) fn ascend(&mut self, order: &mut ChaCha8Rng) -> Result<Report> {
        let mut total = Report::default();
        while total.sweeps < self.max_sweeps {
            let report = self.sweep(order)?;
            total.add(&report);
            if report.moved_groups == 0 {
                break;
            }
        }
        Ok(total)
    }

    /// Visits every group once, in random order, but for those that are still optimal because no neighbour moved.
    pub(super) fn sweep(&mut self, order: &mut ChaCha8Rng) -> Result<Report> {
        let mut report = Report { sweeps: 1, ..Report::default() };
        let mut visit: Vec<usize> = (0..self.groups.len()).collect();
        visit.shuffle(order);
        for index in visit {
            let group = &self.groups[index];
            let last_change = group.gain.neighbours().map(|other| self.groups[other].moved_at).max().unwrap_or(0);
            if group.solved_at.is_some_and(|solved| solved > last_change) {
                continue;
            }
            progress::check()?;
            report.solved_groups += 1;
            self.clock += 1;
            self.groups[index].solved_at = Some(self.clock);
            let Some(gain) = self.gain_to_solve(index)? else { continue };
            let gain = slice::values(&gain).unwrap_or_default();
            let start = Instant::now();
            let solver = &mut self.groups[index].solver;
            if self.solver == Solver::Plain {
                solver.forget();
            }
            solver.solve(gain)?;
            let candidate = solver.permutation();
            report.assignment += start.elapsed();
            // On a tie the old assignment stays, so that the ascent ends.
            if candidate != self.permutations.0[index] && self.improves(index, gain, &candidate)? {
                self.permutations.0[index] = candidate;
                self.groups[index].moved_at = self.clock;
                report.moved_groups += 1;
            }
        }
        Ok(report)
    }

    /// Whether a permutation of the group raises the objective by more than rounding.
    fn improves(&self, index: usize, gain: &[f32], candidate: &Permutation) -> Result<bool> {
        let group = &self.groups[index];
        let (now, then) = if group.coupled {
            let mut moved = self.permutations.clone();
            moved.0[index] = candidate.clone();
            (self.share(group, &self.permutations)?, self.share(group, &moved)?)
        } else {
            (total_gain(gain, &self.permutations.0[index]), total_gain(gain, candidate))
        };
        Ok(then - now > ROUNDING * now.abs())
    }

    /// The share in the objective of the tensors that a group touches, `Σ <target, π(model; P)>`.
    fn share(&self, group: &Group, permutations: &Permutations) -> Result<f64> {
        let Some(target) = &self.target else { return Ok(0.0) };
        group.gain.tensors().into_iter().try_fold(0.0, |sum, tensor| {
            let permuted =
                permutations.apply_to_tensor(&self.spec.axes()[tensor], &self.model.tensors()[tensor], None)?;
            Ok(sum + dot(&target.tensors()[tensor], &permuted)?)
        })
    }

    /// A group's gain matrix as f32 on the CPU, or `None` if it need not be solved: on a GPU the prices tell whether the
    /// assignment is still the best, and then the matrix stays there.
    fn gain_to_solve(&mut self, index: usize) -> Result<Option<Tensor>> {
        let Some(target) = &self.target else { return Ok(None) };
        let Group { gain, solver, .. } = &mut self.groups[index];
        let gain = gain.matrix(self.spec, &self.model, target, &self.permutations)?.f_to_kind(Kind::Float)?;
        let settled = self.solver == Solver::WarmStarted && solver.permutation() == self.permutations.0[index];
        if self.on_device && settled && solver.certifies(&gain)? {
            return Ok(None);
        }
        Ok(Some(gain.f_to_device(Device::Cpu)?.f_contiguous()?))
    }
}

fn total_gain(gain: &[f32], permutation: &Permutation) -> f64 {
    let n = permutation.len();
    permutation.as_slice().iter().enumerate().map(|(row, &column)| f64::from(gain[row * n + column as usize])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use crate::rng::{Purpose, rng};

    #[test]
    fn matrices_that_stay_on_a_device_give_the_same_permutations() -> Result<()> {
        for network in [Network::mlp(&[12, 24, 20, 4])?, Network::convnet([1, 12, 12], 0.5, 4)?] {
            let spec = network.permutation_spec();
            let (model, mut target) = (network.init(0, Device::Cpu)?, network.init(1, Device::Cpu)?);
            let matcher = |on_device| {
                let new = Matcher::new(&spec, &model, Solver::WarmStarted, Precision::F32, 100);
                Matcher { on_device, ..new }
            };
            let (mut here, mut there) = (matcher(false), matcher(true));
            let order = || rng(0, Purpose::SweepOrder(0));
            for step in 0..6 {
                let (ours, theirs) = (here.fit(&target, &mut order())?, there.fit(&target, &mut order())?);
                assert_eq!((ours.sweeps, ours.moved_groups), (theirs.sweeps, theirs.moved_groups), "step {step}");
                assert!(here.permutations() == there.permutations(), "step {step}");
                // Every second target is the one before: the certificate answers for it.
                if step % 2 == 1 {
                    target = target.map(|tensor| Ok(tensor + tensor.randn_like() * 0.02))?;
                }
            }
        }
        Ok(())
    }

    #[test]
    fn the_prices_of_an_assignment_that_was_not_taken_do_not_speak_for_the_one_that_was() -> Result<()> {
        let network = Network::mlp(&[1, 2, 2])?;
        let spec = network.permutation_spec();
        let model = network.init(0, Device::Cpu)?;
        let swap = Permutations(vec![Permutation::new(vec![1, 0])?]);
        let mut matcher = Matcher::new(&spec, &model, Solver::WarmStarted, Precision::F32, 100);
        matcher.on_device = true;
        let order = || rng(0, Purpose::SweepOrder(0));
        matcher.fit(&model.scaled(0.0)?, &mut order())?;
        // The solver answers with some assignment; a tie does not move the units.
        assert_eq!(matcher.groups[0].solver.permutation(), swap.0[0]);
        assert_eq!(*matcher.permutations(), Permutations::identity(&spec));
        matcher.fit(&swap.apply(&spec, &model)?, &mut order())?;
        assert_eq!(*matcher.permutations(), swap);
        Ok(())
    }

    #[test]
    fn products_of_sixteen_bits_find_almost_the_same_objective() -> Result<()> {
        let network = Network::mlp(&[32, 64, 64, 4])?;
        let spec = network.permutation_spec();
        let (model, target) = (network.init(0, Device::Cpu)?, network.init(1, Device::Cpu)?);
        let objective = |precision| -> Result<f64> {
            let mut matcher = Matcher::new(&spec, &model, Solver::WarmStarted, precision, 100);
            matcher.fit(&target, &mut rng(0, Purpose::SweepOrder(0)))?;
            target.dot(&matcher.permuted()?)
        };
        let (full, half) = (objective(Precision::F32)?, objective(Precision::Bf16)?);
        assert!(full > target.dot(&model)? && (half - full).abs() < 0.05 * full, "{half} instead of {full}");
        Ok(())
    }
}
