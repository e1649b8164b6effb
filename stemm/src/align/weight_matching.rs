//! Weight matching: permute the units of models so that their weights are as similar as possible; no data needed.
//!
//! Two models (Ainsworth et al. 2023, Algorithm 1; Ito et al. 2025, Algorithm 2): maximise `Σ <θ_A, π(θ_B; P)>` by
//! coordinate ascent over the groups; each group is a linear assignment problem on its gain matrix. Many models: each
//! in turn is matched to the mean of the others, until the sum of inner products over all pairs stops growing.

use std::time::Instant;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::matcher::{Matcher, Report};
use super::{Aligner, Alignment, Found, Method, Permutations, Record};
use crate::data::Splits;
use crate::error::Result;
use crate::network::{Model, Params, PermutationSpec, check_models};
use crate::progress::Progress;
use crate::rng::{Purpose, rng, step_seed};
use crate::train::{Precision, positive};

/// How the assignment problems of consecutive calls are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WeightMatching {
    /// At most this many passes over the models (two models: over the groups); the result says if it was reached.
    pub max_sweeps: usize,
    /// How the assignment problems are started.
    pub solver: Solver,
    /// Number format of the gain matrices' products.
    pub precision: Precision,
    /// Further ascents with other orders of models and groups; the one with the highest objective is the result. Coordinate
    /// ascent can stop below the highest point of networks with residual streams.
    pub restarts: usize,
    /// Seed of the order in which models and groups are visited.
    pub seed: u64,
    /// Where progress is shown.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for WeightMatching {
    fn default() -> Self {
        WeightMatching {
            max_sweeps: 100,
            solver: Solver::WarmStarted,
            precision: Precision::F32,
            restarts: 0,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

impl Aligner for WeightMatching {
    fn name(&self) -> &str {
        "weight matching"
    }

    fn check(&self) -> Result<()> {
        positive("max_sweeps", self.max_sweeps)
    }

    /// Two models: the second is matched to the first. More: all are matched to the mean of the others, then moved
    /// together so that the first keeps its units.
    fn align(&self, models: &[Model], _data: &Splits) -> Result<Alignment> {
        check_models("weight matching", models, 2)?;
        self.check()?;
        let _guard = tch::no_grad_guard();
        let start = Instant::now();
        let spec = models[0].network.permutation_spec();
        let objective = |found: &Found| found.history.last().and_then(|record| record.objective);
        let mut best: Option<Found> = None;
        for attempt in 0..=self.restarts {
            let ascent = self.ascend(&spec, models, attempt)?;
            // Of equal ones the first.
            if best.as_ref().is_none_or(|best| objective(&ascent) > objective(best)) {
                best = Some(ascent);
            }
        }
        best.unwrap_or_default().alignment(self, start)
    }

    fn with(&self, seed: u64, progress: Progress) -> Method {
        WeightMatching { seed, progress, ..self.clone() }.into()
    }
}

impl WeightMatching {
    /// One ascent; each attempt visits models and groups in another order.
    fn ascend(&self, spec: &PermutationSpec, models: &[Model], attempt: usize) -> Result<Found> {
        let seed = if attempt == 0 { self.seed } else { step_seed(self.seed, attempt) };
        let mut order = rng(seed, Purpose::SweepOrder(0));
        let matcher = |model: &Model| Matcher::new(spec, &model.params, self.solver, self.precision, self.max_sweeps);
        let mut matchers: Vec<Matcher> = models.iter().map(matcher).collect();
        let mut history = Vec::new();
        let converged = if models.len() == 2 {
            self.match_two(&models[0].params, &mut matchers[1], &mut order, &mut history)?
        } else {
            self.match_many(&mut matchers, &mut order, &mut history)?
        };
        let permutations = matchers.iter().map(|matcher| matcher.permutations().clone()).collect();
        Ok(Found { permutations, history, converged })
    }

    fn match_two(
        &self,
        target: &Params,
        matcher: &mut Matcher,
        order: &mut ChaCha8Rng,
        history: &mut Vec<Record>,
    ) -> Result<bool> {
        let mut task = self.progress.task("weight matching, two models", self.max_sweeps);
        matcher.set_target(target);
        for sweep in 1..=self.max_sweeps {
            let report = matcher.sweep(order)?;
            let objective = target.dot(&matcher.permuted()?)?;
            history.push(Record::sweep(sweep, objective, &report));
            task.step(|| format!("objective {objective:.4}"))?;
            if report.moved_groups == 0 {
                task.finish();
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
        // The permutations of all models at the last fit of each: what moved since is all that changed in its target.
        let mut seen: Vec<Vec<Permutations>> = vec![Vec::new(); matchers.len()];
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
                let now: Vec<Permutations> = matchers.iter().map(|matcher| matcher.permutations().clone()).collect();
                let fit = if seen[model].is_empty() {
                    matchers[model].set_target(&others);
                    matchers[model].ascend(order)?
                } else {
                    matchers[model].change_target(&others, &moved_units(&seen[model], &now, model))?;
                    matchers[model].ascend(order)?
                };
                seen[model] = now;
                if fit.moved_groups > 0 {
                    let moved = matchers[model].permuted()?;
                    for ((sum, old), new) in sum.all_mut().zip(permuted[model].all()).zip(moved.all()) {
                        let _ = sum.f_sub_(old)?.f_add_(new)?;
                    }
                    permuted[model] = moved;
                    optimal.fill(false);
                }
                optimal[model] = true;
                report.add(&fit);
            }
            // Σ_{i<j} <θ_i, θ_j> = (|Σ θ_i|² - Σ |θ_i|²) / 2
            let objective = (sum.dot(&sum)? - norms) / 2.0;
            history.push(Record::sweep(sweep, objective, &report));
            task.step(|| format!("objective {objective:.4}"))?;
            if optimal.iter().all(|&optimal| optimal) {
                task.finish();
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// For each group the units that any model but one has moved.
fn moved_units(before: &[Permutations], now: &[Permutations], except: usize) -> Vec<Vec<i64>> {
    let groups = 0..now[except].0.len();
    let moved = |group: usize, unit: usize| {
        let mut pairs = before.iter().zip(now).enumerate().filter(|(model, _)| *model != except);
        pairs.any(|(_, (a, b))| a.0[group].as_slice()[unit] != b.0[group].as_slice()[unit])
    };
    let units = |group: usize| (0..now[except].0[group].len()).filter(move |&unit| moved(group, unit));
    groups.map(|group| units(group).map(|unit| unit as i64).collect()).collect()
}
