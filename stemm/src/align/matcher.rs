//! Coordinate ascent over the groups of one model towards a target: the core of weight matching and of STE-MM.

use std::time::{Duration, Instant};

use multiversion::multiversion;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::Kind;

use super::gain::Term;
use super::{AssignmentSolver, Permutation, Permutations, Solver};
use crate::error::Result;
use crate::network::{Params, PermutationSpec, dot};
use crate::slice;

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
    /// What the terms of the gain matrices belong to.
    target: Option<Params>,
    gain: Vec<f32>,
    /// Counts solutions.
    clock: usize,
}

struct Group {
    solver: AssignmentSolver,
    terms: Vec<Term>,
    /// Whether a tensor has the group on two axes, as a convolution inside a sum does: then the objective is not linear in
    /// its permutation, and the gain matrix only says how it changes with one axis held.
    coupled: bool,
    /// When the permutation last changed, and when it was last found optimal.
    moved_at: usize,
    solved_at: Option<usize>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(spec: &'a PermutationSpec, model: &Params, solver: Solver, max_sweeps: usize) -> Matcher<'a> {
        let groups = (0..spec.groups().len()).map(|index| {
            let members = spec.members(index);
            let coupled =
                members.windows(2).any(|pair| pair[0].tensor == pair[1].tensor && pair[0].axis != pair[1].axis);
            let terms = members.into_iter().map(|member| Term::new(spec, index, member));
            let solver = AssignmentSolver::new(spec.groups()[index].size);
            Group { solver, coupled, terms: terms.collect(), moved_at: 0, solved_at: None }
        });
        Matcher {
            groups: groups.collect(),
            spec,
            model: model.clone(),
            permutations: Permutations::identity(spec),
            solver,
            max_sweeps,
            target: None,
            gain: Vec::new(),
            clock: 0,
        }
    }

    pub(crate) fn permutations(&self) -> &Permutations {
        &self.permutations
    }

    /// `π(θ; P)` with the permutations found so far.
    pub(crate) fn permuted(&self) -> Result<Params> {
        self.permutations.apply(self.spec, &self.model)
    }

    /// `sum += weight * π(θ; P)`, one tensor at a time.
    pub(crate) fn add_permuted(&self, sum: &mut Params, weight: f64) -> Result<()> {
        let axes = self.spec.axes().iter().chain(self.spec.buffer_axes());
        for ((axes, tensor), sum) in axes.zip(self.model.all()).zip(sum.all_mut()) {
            let permuted = self.permutations.apply_to_tensor(axes, tensor, None)?;
            let _ = sum.f_add_(&permuted.f_mul_scalar(weight)?)?;
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
        self.gain = Vec::new();
        self.groups.iter_mut().flat_map(|group| &mut group.terms).for_each(Term::clear);
        report
    }

    /// A target of which nothing is known: every term is out of date.
    pub(super) fn set_target(&mut self, target: &Params) {
        self.target = Some(target.clone());
        for group in &mut self.groups {
            group.solved_at = None;
            group.terms.iter_mut().for_each(Term::clear);
        }
    }

    /// A target that differs from the one before only in some units of each group: only their share is computed again.
    pub(super) fn change_target(&mut self, target: &Params, changed: &[Vec<i64>]) -> Result<()> {
        let before = self.target.replace(target.clone());
        for group in &mut self.groups {
            group.solved_at = None;
            for term in &mut group.terms {
                let followed = match &before {
                    Some(before) => term.follow_target(self.spec, &self.model, [before, target], changed)?,
                    None => false,
                };
                if !followed {
                    term.clear();
                }
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
            let neighbours = group.terms.iter().flat_map(|term| &term.neighbours);
            let last_change = neighbours.map(|neighbour| self.groups[neighbour.group].moved_at).max().unwrap_or(0);
            if group.solved_at.is_some_and(|solved| solved > last_change) {
                continue;
            }
            self.update_gain(index)?;
            let start = Instant::now();
            let solver = &mut self.groups[index].solver;
            if self.solver == Solver::Plain {
                solver.forget();
            }
            solver.solve(&self.gain)?;
            let candidate = solver.permutation();
            report.assignment += start.elapsed();
            report.solved_groups += 1;
            self.clock += 1;
            self.groups[index].solved_at = Some(self.clock);
            // On a tie the old assignment stays, so that the ascent ends.
            if candidate != self.permutations.0[index] && self.improves(index, &candidate)? {
                self.permutations.0[index] = candidate;
                self.groups[index].moved_at = self.clock;
                report.moved_groups += 1;
            }
        }
        Ok(report)
    }

    /// Whether a permutation of the group whose gain matrix is at hand raises the objective by more than rounding.
    fn improves(&self, index: usize, candidate: &Permutation) -> Result<bool> {
        let group = &self.groups[index];
        let (now, then) = if group.coupled {
            let mut moved = self.permutations.clone();
            moved.0[index] = candidate.clone();
            (self.share(group, &self.permutations)?, self.share(group, &moved)?)
        } else {
            (total_gain(&self.gain, &self.permutations.0[index]), total_gain(&self.gain, candidate))
        };
        Ok(then - now > ROUNDING * now.abs())
    }

    /// The share in the objective of the tensors that a group touches, `Σ <target, π(model; P)>`.
    fn share(&self, group: &Group, permutations: &Permutations) -> Result<f64> {
        let Some(target) = &self.target else { return Ok(0.0) };
        let mut tensors: Vec<usize> = group.terms.iter().map(|term| term.tensor()).collect();
        tensors.dedup(); // members are in the order of the tensors
        tensors.into_iter().try_fold(0.0, |sum, tensor| {
            let permuted =
                permutations.apply_to_tensor(&self.spec.axes()[tensor], &self.model.tensors()[tensor], None)?;
            Ok(sum + dot(&target.tensors()[tensor], &permuted)?)
        })
    }

    /// Fills in a group's gain matrix, the sum of its terms; only what changed is computed again.
    fn update_gain(&mut self, index: usize) -> Result<()> {
        let Some(target) = &self.target else { return Ok(()) };
        let n = self.spec.groups()[index].size;
        self.gain.clear();
        self.gain.resize(n * n, 0.0);
        for term in &mut self.groups[index].terms {
            let gain = term.gain(self.spec, &self.model, target, &self.permutations)?;
            if let Some(values) = slice::values(gain) {
                add(&mut self.gain, values);
            } else {
                add(&mut self.gain, &Vec::<f32>::try_from(gain.f_to_kind(Kind::Float)?.f_reshape([-1])?)?);
            }
        }
        Ok(())
    }
}

#[multiversion(targets("x86_64+avx512f+avx512vl", "x86_64+avx2+fma"))]
fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

fn total_gain(gain: &[f32], permutation: &Permutation) -> f64 {
    let n = permutation.len();
    permutation.as_slice().iter().enumerate().map(|(row, &column)| f64::from(gain[row * n + column as usize])).sum()
}
