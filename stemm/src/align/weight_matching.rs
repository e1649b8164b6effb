//! Weight matching: permute the units of models so that their weights are as similar as possible; no data needed.
//!
//! Two models (Ainsworth et al. 2023, Algorithm 1; Ito et al. 2025, Algorithm 2): maximise `Σ <θ_A, π(θ_B; P)>` by
//! coordinate ascent over the groups; each group is a linear assignment problem on its gain matrix. Many models: each
//! in turn is matched to the mean of the others, until the sum of inner products over all pairs stops growing.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use super::{Aligner, Alignment, AssignmentSolver, Permutation, Permutations, Record};
use crate::data::Splits;
use crate::error::Result;
use crate::network::{Member, Model, Params, PermutationSpec, check_models, copied};
use crate::progress::Progress;
use crate::rng::{Purpose, rng};
use crate::train::positive;

/// A relative gain below this is within the rounding of the f32 gain matrix, and no progress.
const ROUNDING: f64 = 1e-7;

/// How the assignment problems of consecutive calls are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solver {
    /// From the prices and assignment of the call before (Ito et al. 2025, Algorithm 3): the same optimum, sooner.
    WarmStarted,
    /// From nothing, each time.
    Plain,
}

/// Settings of weight matching; the first model is the reference and keeps its units where they are.
///
/// ```
/// use stemm::prelude::*;
/// let network = Network::mlp(&[4, 16, 3])?;
/// let a = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let b = Model::new(network.clone(), network.init(1, Device::Cpu)?)?;
/// let data = blobs(0, Device::Cpu)?; // not looked at by weight matching
/// let alignment = WeightMatching::default().align(&[a, b], &data)?;
/// assert_eq!(alignment.permutations[0].0[0].fixed_points(), 16);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct WeightMatching {
    /// At most this many passes over the models (two models: over the groups); the result says if it was reached.
    pub max_sweeps: usize,
    /// How the assignment problems are started.
    pub solver: Solver,
    /// Seed of the order in which models and groups are visited.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for WeightMatching {
    fn default() -> Self {
        WeightMatching { max_sweeps: 100, solver: Solver::WarmStarted, seed: 0, progress: Progress::default() }
    }
}

impl Aligner for WeightMatching {
    fn name(&self) -> &str {
        "weight matching"
    }

    /// Two models: the second is matched to the first. More: all are matched to the mean of the others, then moved
    /// together so that the first keeps its units.
    fn align(&self, models: &[Model], _data: &Splits) -> Result<Alignment> {
        check_models("weight matching", models, 2)?;
        positive("max_sweeps", self.max_sweeps)?;
        let _guard = tch::no_grad_guard();
        let start = Instant::now();
        let spec = models[0].network.permutation_spec();
        let mut order = rng(self.seed, Purpose::SweepOrder(0));
        let matcher = |model: &Model| Matcher::new(&spec, &model.params, self.solver, self.max_sweeps);
        let mut matchers: Vec<Matcher> = models.iter().map(matcher).collect();
        let mut history = Vec::new();
        let converged = if models.len() == 2 {
            self.match_two(&models[0].params, &mut matchers[1], &mut order, &mut history)?
        } else {
            self.match_many(&mut matchers, &mut order, &mut history)?
        };
        let to_reference: Vec<Permutation> = matchers[0].permutations().0.iter().map(Permutation::inverse).collect();
        let permutations = matchers
            .iter()
            .map(|matcher| {
                let own = matcher.permutations().0.iter().zip(&to_reference);
                Ok(Permutations(own.map(|(own, back)| own.then(back)).collect::<Result<_>>()?))
            })
            .collect::<Result<_>>()?;
        Ok(Alignment {
            method: self.name().to_owned(),
            permutations,
            history,
            seconds: start.elapsed().as_secs_f64(),
            converged,
        })
    }
}

impl WeightMatching {
    fn match_two(
        &self,
        target: &Params,
        matcher: &mut Matcher,
        order: &mut ChaCha8Rng,
        history: &mut Vec<Record>,
    ) -> Result<bool> {
        let mut task = self.progress.task("weight matching, two models", self.max_sweeps);
        let mut ascent = Ascent::new(matcher, target);
        for sweep in 1..=self.max_sweeps {
            let report = ascent.sweep(order)?;
            let objective = target.dot(&ascent.matcher.permuted()?)?;
            history.push(Record::sweep(sweep, objective, &report));
            task.step(|| format!("objective {objective:.4}"));
            if report.moved_groups == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn match_many(&self, matchers: &mut [Matcher], order: &mut ChaCha8Rng, history: &mut Vec<Record>) -> Result<bool> {
        let mut task = self.progress.task(format!("weight matching, {} models", matchers.len()), self.max_sweeps);
        let n = matchers.len() as f64;
        let mut models: Vec<usize> = (0..matchers.len()).collect();
        let mut permuted: Vec<Params> = matchers.iter().map(Matcher::permuted).collect::<Result<_>>()?;
        let norms: f64 = permuted.iter().map(|params| params.dot(params)).sum::<Result<f64>>()?;
        let mut sum = Params::weighted_sum(&permuted.iter().collect::<Vec<_>>(), &vec![1.0; permuted.len()])?;
        // A model is still optimal if no other has moved since its last fit.
        let mut optimal = vec![false; matchers.len()];
        for sweep in 1..=self.max_sweeps {
            models.shuffle(order);
            let mut report = Report::default();
            for &model in &models {
                if optimal[model] {
                    continue;
                }
                // mean of the others = (sum - own) / (n - 1)
                let weights = [1.0 / (n - 1.0), -1.0 / (n - 1.0)];
                let others = Params::weighted_sum(&[&sum, &permuted[model]], &weights)?;
                let fit = matchers[model].fit(&others, order)?;
                if fit.moved_groups > 0 {
                    let moved = matchers[model].permuted()?;
                    sum = Params::weighted_sum(&[&sum, &permuted[model], &moved], &[1.0, -1.0, 1.0])?;
                    permuted[model] = moved;
                    optimal.fill(false);
                }
                optimal[model] = true;
                report.add(&fit);
            }
            // Σ_{i<j} <θ_i, θ_j> = (|Σ θ_i|² - Σ |θ_i|²) / 2
            let objective = (sum.dot(&sum)? - norms) / 2.0;
            history.push(Record::sweep(sweep, objective, &report));
            task.step(|| format!("objective {objective:.4}"));
            if optimal.iter().all(|&optimal| optimal) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

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
    solvers: Vec<AssignmentSolver>,
    solver: Solver,
    max_sweeps: usize,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(spec: &'a PermutationSpec, model: &Params, solver: Solver, max_sweeps: usize) -> Matcher<'a> {
        Matcher {
            spec,
            model: model.clone(),
            permutations: Permutations::identity(spec),
            solvers: spec.groups().iter().map(|group| AssignmentSolver::new(group.size)).collect(),
            solver,
            max_sweeps,
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
    pub(crate) fn fit(&mut self, target: &Params, order: &mut ChaCha8Rng) -> Result<Report> {
        let max_sweeps = self.max_sweeps;
        let mut ascent = Ascent::new(self, target);
        let mut total = Report::default();
        while total.sweeps < max_sweeps {
            let report = ascent.sweep(order)?;
            total.add(&report);
            if report.moved_groups == 0 {
                break;
            }
        }
        Ok(total)
    }
}

/// Coordinate ascent towards one target; the terms of the gain matrices live only as long as it.
struct Ascent<'a, 'spec> {
    matcher: &'a mut Matcher<'spec>,
    target: &'a Params,
    groups: Vec<Group>,
    gain: Vec<f32>,
    /// Counts solutions.
    clock: usize,
}

struct Group {
    terms: Vec<Term>,
    /// Whether a tensor has the group on two axes, as a convolution inside a sum does: then the objective is not linear in
    /// its permutation, and the gain matrix only says how it changes with one axis held.
    coupled: bool,
    /// When the permutation last changed, and when it was last found optimal.
    moved_at: usize,
    solved_at: Option<usize>,
}

/// The share of one run of a tensor axis in a group's gain matrix.
struct Term {
    member: Member,
    /// Groups of the tensor's other axes: the term changes when they move.
    neighbours: Vec<usize>,
    value: Option<(usize, Tensor)>, // when it was computed, [n, n]
}

impl<'a, 'spec> Ascent<'a, 'spec> {
    fn new(matcher: &'a mut Matcher<'spec>, target: &'a Params) -> Ascent<'a, 'spec> {
        let spec = matcher.spec;
        let groups = (0..spec.groups().len()).map(|index| {
            let members = spec.members(index);
            let coupled =
                members.windows(2).any(|pair| pair[0].tensor == pair[1].tensor && pair[0].axis != pair[1].axis);
            let terms = members.into_iter().map(|member| {
                let axes = spec.axes()[member.tensor].iter().enumerate();
                let others = axes.filter(|(axis, _)| *axis != member.axis).flat_map(|(_, segments)| segments);
                Term { member, neighbours: others.filter_map(|segment| segment.group).collect(), value: None }
            });
            Group { coupled, terms: terms.collect(), moved_at: 0, solved_at: None }
        });
        Ascent { groups: groups.collect(), matcher, target, gain: Vec::new(), clock: 0 }
    }

    /// Visits every group once, in random order, but for those that are still optimal because no neighbour moved.
    fn sweep(&mut self, order: &mut ChaCha8Rng) -> Result<Report> {
        let mut report = Report { sweeps: 1, ..Report::default() };
        let mut visit: Vec<usize> = (0..self.groups.len()).collect();
        visit.shuffle(order);
        for index in visit {
            let group = &self.groups[index];
            let neighbours = group.terms.iter().flat_map(|term| &term.neighbours);
            let last_change = neighbours.map(|&neighbour| self.groups[neighbour].moved_at).max().unwrap_or(0);
            if group.solved_at.is_some_and(|solved| solved > last_change) {
                continue;
            }
            self.update_gain(index)?;
            let start = Instant::now();
            let solver = &mut self.matcher.solvers[index];
            if self.matcher.solver == Solver::Plain {
                solver.forget();
            }
            solver.solve(&self.gain)?;
            let candidate = solver.permutation();
            report.assignment += start.elapsed();
            report.solved_groups += 1;
            self.clock += 1;
            self.groups[index].solved_at = Some(self.clock);
            // On a tie the old assignment stays, so that the ascent ends.
            if candidate != self.matcher.permutations.0[index] && self.improves(index, &candidate)? {
                self.matcher.permutations.0[index] = candidate;
                self.groups[index].moved_at = self.clock;
                report.moved_groups += 1;
            }
        }
        Ok(report)
    }

    /// Whether a permutation of the group whose gain matrix is at hand raises the objective by more than rounding.
    fn improves(&self, index: usize, candidate: &Permutation) -> Result<bool> {
        let (group, permutations) = (&self.groups[index], &self.matcher.permutations);
        let (now, then) = if group.coupled {
            let mut moved = permutations.clone();
            moved.0[index] = candidate.clone();
            (self.share(group, permutations)?, self.share(group, &moved)?)
        } else {
            (total_gain(&self.gain, &permutations.0[index]), total_gain(&self.gain, candidate))
        };
        Ok(then - now > ROUNDING * now.abs())
    }

    /// The share in the objective of the tensors that a group touches, `Σ <target, π(model; P)>`.
    fn share(&self, group: &Group, permutations: &Permutations) -> Result<f64> {
        let Matcher { spec, model, .. } = &*self.matcher;
        let mut tensors: Vec<usize> = group.terms.iter().map(|term| term.member.tensor).collect();
        tensors.dedup(); // members are in the order of the tensors
        tensors.into_iter().try_fold(0.0, |sum, tensor| {
            let permuted = permutations.apply_to_tensor(&spec.axes()[tensor], &model.tensors()[tensor], None)?;
            Ok(sum + self.target.tensors()[tensor].f_mul(&permuted)?.f_sum(Kind::Double)?.f_double_value(&[])?)
        })
    }

    /// Fills in a group's gain matrix; only terms whose other axes moved are computed again:
    /// `G[i, j] = Σ < slice i of the target, slice j of the model with its other axes permuted >`.
    fn update_gain(&mut self, index: usize) -> Result<()> {
        let moved_at: Vec<usize> = self.groups.iter().map(|group| group.moved_at).collect();
        let Matcher { spec, model, permutations, .. } = &*self.matcher;
        let n = spec.groups()[index].size as i64;
        let mut sum: Option<Tensor> = None;
        for term in &mut self.groups[index].terms {
            let last_change = term.neighbours.iter().map(|&neighbour| moved_at[neighbour]).max().unwrap_or(0);
            let current = match term.value.take() {
                Some((computed, value)) if computed >= last_change => (computed, value),
                _ => {
                    let Member { tensor, axis, .. } = term.member;
                    let permuted =
                        permutations.apply_to_tensor(&spec.axes()[tensor], &model.tensors()[tensor], Some(axis))?;
                    let ours = units_first(&self.target.tensors()[tensor], &term.member, n)?;
                    let theirs = units_first(&permuted, &term.member, n)?;
                    (self.clock, ours.f_matmul(&theirs.f_tr()?)?)
                }
            };
            sum = Some(match sum {
                None => copied(&current.1)?,
                Some(mut sum) => sum.f_add_(&current.1)?,
            });
            term.value = Some(current);
        }
        self.gain.resize((n * n) as usize, 0.0);
        if let Some(sum) = sum {
            let sum = sum.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
            sum.f_copy_data(&mut self.gain, (n * n) as usize)?;
        }
        Ok(())
    }
}

/// The units of a run as the rows of a matrix: `[n, block * the rest]`.
fn units_first(tensor: &Tensor, member: &Member, n: i64) -> Result<Tensor> {
    let axis = member.axis as i64;
    let run = tensor.f_narrow(axis, member.offset, n * member.block)?;
    Ok(run.f_movedim_int(axis, 0)?.f_reshape([n, -1])?)
}

fn total_gain(gain: &[f32], permutation: &Permutation) -> f64 {
    let n = permutation.len();
    permutation.as_slice().iter().enumerate().map(|(row, &column)| f64::from(gain[row * n + column as usize])).sum()
}
