//! The largest eigenvalues by the Lanczos method, each as often as it occurs.

use polars::prelude::DataFrame;
use tch::Tensor;

use super::krylov::Krylov;
use super::{Hessian, Weighting};
use crate::chart::{Chart, Lines, Series};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::{Model, Params};
use crate::notebook::{Bundle, Show};
use crate::progress::{Progress, Task};
use crate::rng::{Purpose, rng};

/// Settings of the search for the eigenvalues of largest magnitude.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let top = Lanczos { count: 2, ..Lanczos::default() }.eigenvalues(&[("untrained", &model)], &data.test)?;
/// assert!(top[0].values[0].abs() >= top[0].values[1].abs());
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Lanczos {
    /// Eigenvalues that are wanted.
    pub count: usize,
    /// Products of the Hessian with a vector, at most; each keeps a vector as large as the model, and no more than 8 GiB of
    /// them are kept, or half of the free memory: a search that ends there has not converged.
    pub max_products: usize,
    /// Ends when every residual is at most this share of the largest eigenvalue.
    pub relative_error: f64,
    /// `H` or `diag|θ| H diag|θ|`.
    pub weighting: Weighting,
    /// Seed of the first vector.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Lanczos {
    fn default() -> Self {
        Lanczos {
            count: 5,
            max_products: 100,
            relative_error: 1e-3,
            weighting: Weighting::Plain,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// The largest eigenvalues of one model's Hessian.
#[derive(Clone, Debug)]
pub struct Eigenvalues {
    /// Name of the model.
    pub model: String,
    /// Name of the data set.
    pub data: String,
    /// Which matrix.
    pub weighting: Weighting,
    /// By magnitude, the largest first.
    pub values: Vec<f64>,
    /// `|H y - λ y|` of each: an eigenvalue lies within this distance.
    pub residuals: Vec<f64>,
    /// The eigenvectors, of length 1, in the shapes of the parameters.
    pub vectors: Vec<Params>,
    /// Products it took.
    pub products: usize,
    /// Whether every residual is as small as was wanted, and a search in what is left found nothing larger.
    pub converged: bool,
}

impl Lanczos {
    /// The eigenvalues of largest magnitude of the Hessian of the mean cross-entropy on `data`, for named models.
    ///
    /// # Errors
    /// No eigenvalues wanted, more than products or parameters, NaN weights, data that do not fit.
    pub fn eigenvalues(&self, models: &[(&str, &Model)], data: &Dataset) -> Result<Vec<Eigenvalues>> {
        if models.is_empty() {
            return Err(Error::TooFewModels { operation: "a look at the Hessian", found: 0, needed: 1 });
        }
        super::check_relative_error(Some(self.relative_error))?;
        let smallest = models.iter().map(|(_, model)| model.params.numel()).min().unwrap_or(usize::MAX);
        if self.count == 0 || self.count > self.max_products.min(smallest) {
            let requirement = "at least 1, and no more than `max_products` or the number of parameters";
            return Err(Error::Setting { setting: "count", value: self.count.to_string(), requirement });
        }
        let mut task = self.progress.task("Hessian eigenvalues", models.len().saturating_mul(self.max_products));
        let found =
            models.iter().map(|(name, model)| self.of_model(name, model, data, &mut task)).collect::<Result<_>>()?;
        task.finish();
        Ok(found)
    }

    /// One Krylov space holds each eigenvalue once, however many times it occurs, and misses those that its first vector
    /// had no part of. So what was found is set aside, and a further space is searched in what is left, from a random
    /// vector, until its largest value is no larger than the least of those that are wanted.
    fn of_model(&self, name: &str, model: &Model, data: &Dataset, task: &mut Task) -> Result<Eigenvalues> {
        let hessian = Hessian::new(model, data, self.weighting)?;
        let mut rng = rng(self.seed, Purpose::Probe);
        let dimension = hessian.dimension() as usize;
        let kept = affordable(&model.params);
        let mut found: Vec<Pair> = Vec::new();
        let (mut products, mut converged) = (0, false);
        while !converged && products < self.max_products && found.len() < kept {
            let start = if found.is_empty() { hessian.signs(&mut rng)? } else { hessian.normal(&mut rng)? };
            let mut basis = Krylov::new(&start, found.iter().map(|pair| pair.vector.shallow_clone()).collect())?;
            let new = loop {
                basis.extend(&hessian)?;
                products += 1;
                let ritz = basis.ritz()?;
                let mut order: Vec<usize> = (0..ritz.values.len()).collect();
                order.sort_by(|&a, &b| ritz.values[b].abs().total_cmp(&ritz.values[a].abs()));
                let (largest, rest) = (ritz.values[order[0]].abs(), ritz.residuals[order[0]]);
                task.step(|| format!("largest {:.4}", found.first().map_or(largest, |pair| pair.value.abs())))?;
                let goal = self.relative_error * found.iter().map(|pair| pair.value.abs()).fold(largest, f64::max);
                // A Ritz value grows towards the largest eigenvalue of its space: it counts once it hardly changes.
                let known = rest <= goal.max(KNOWN * largest);
                if known && self.least(&found, &[]).is_some_and(|least| largest + rest <= least + goal) {
                    converged = true;
                    break Vec::new();
                }
                let least = self.least(&found, &ritz.values);
                let wanted: Vec<usize> = order
                    .into_iter()
                    .filter(|&index| least.is_none_or(|least| ritz.values[index].abs() >= least))
                    .collect();
                let settled = least.is_some() && wanted.iter().all(|&index| ritz.residuals[index] <= goal);
                let complete = found.len() + basis.len() == dimension;
                let out = products == self.max_products || found.len() + basis.len() >= kept;
                let taken: Vec<usize> =
                    if complete || basis.exhausted() { (0..ritz.values.len()).collect() } else { wanted };
                if complete || basis.exhausted() || settled && !taken.is_empty() || out {
                    converged = complete && (basis.exhausted() || settled);
                    let pair = |index: usize| -> Result<Pair> {
                        let vector = basis.combine(&ritz.weights[index])?;
                        Ok(Pair { value: ritz.values[index], residual: ritz.residuals[index], vector })
                    };
                    break taken.into_iter().map(pair).collect::<Result<_>>()?;
                }
            };
            found.extend(new);
            found.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
        }
        found.truncate(self.count);
        Ok(Eigenvalues {
            model: name.to_owned(),
            data: data.name().to_owned(),
            weighting: self.weighting,
            values: found.iter().map(|pair| pair.value).collect(),
            residuals: found.iter().map(|pair| pair.residual).collect(),
            vectors: found.iter().map(|pair| shaped(&pair.vector, &model.params)).collect::<Result<_>>()?,
            products,
            converged,
        })
    }

    /// The magnitude of the last of the wanted eigenvalues, if there are so many.
    fn least(&self, found: &[Pair], others: &[f64]) -> Option<f64> {
        let values = found.iter().map(|pair| pair.value.abs()).chain(others.iter().map(|value| value.abs()));
        let mut values: Vec<f64> = values.collect();
        values.sort_by(|a, b| b.total_cmp(a));
        values.get(self.count - 1).copied()
    }
}

/// The largest eigenvalue of a space is known well enough to be compared with smaller residuals than this share of it.
const KNOWN: f64 = 0.1;

/// An eigenvalue with its residual and its vector `[d]`, of length 1.
struct Pair {
    value: f64,
    residual: f64,
    vector: Tensor,
}

/// Vectors as large as a model that there is memory for.
fn affordable(params: &Params) -> usize {
    let bytes = params.numel() * params.kind().elt_size_in_bytes();
    let free = crate::memory::available().unwrap_or(u64::MAX) / 2;
    (free.min(8 << 30) as usize / bytes.max(1)).max(1)
}

/// A vector in the shapes of a model's parameters.
fn shaped(vector: &Tensor, like: &Params) -> Result<Params> {
    let mut start = 0;
    like.without_buffers().map(|tensor| {
        let length = tensor.numel() as i64;
        start += length;
        Ok(vector.f_narrow(0, start - length, length)?.f_reshape(tensor.size())?)
    })
}

impl Eigenvalues {
    /// One row an eigenvalue, the largest first.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.values;
        frame([
            column("model", rows.iter().map(|_| self.model.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("weighting", rows.iter().map(|_| self.weighting.name())),
            column("rank", 1..=rows.len() as u64),
            column("eigenvalue", rows.iter().copied()),
            column("residual", self.residuals.iter().copied()),
            column("products", rows.iter().map(|_| self.products as u64)),
        ])
    }

    /// The eigenvalues by rank, beside those of other models.
    pub fn chart_beside(&self, others: &[&Eigenvalues]) -> Chart {
        let all = std::iter::once(self).chain(others.iter().copied());
        let series = all.map(|own| {
            let points = (1..).zip(&own.values).map(|(rank, &value)| (f64::from(rank), value)).collect();
            let band = own.values.iter().zip(&own.residuals).map(|(value, error)| (value - error, value + error));
            Series::new(own.model.clone(), points).band(band.collect())
        });
        Lines::new("Largest eigenvalues of the Hessian", "rank", "eigenvalue").series(series).into()
    }

    /// The eigenvalues by rank.
    pub fn chart(&self) -> Chart {
        self.chart_beside(&[])
    }
}

impl Show for Eigenvalues {
    fn look(&self) -> Bundle {
        let end = if self.converged {
            "converged"
        } else {
            "stopped before the residuals were small, at `max_products` or the limit of memory"
        };
        Bundle::table(&self.frame(), &format!("{} products, {end}", self.products))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::explicit;
    use super::*;
    use tch::Kind;

    #[test]
    fn the_basis_stays_orthonormal_in_single_precision() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Plain, 32)?;
        let hessian = Hessian::new(&model, &data, Weighting::Plain)?;
        let mut basis = Krylov::new(&hessian.signs(&mut rng(0, Purpose::Probe))?, Vec::new())?;
        while basis.len() < 60 && !basis.exhausted() {
            basis.extend(&hessian)?;
        }
        let vectors = Tensor::cat(&basis.matrices()?, 0).to_kind(Kind::Double);
        let products = vectors.matmul(&vectors.tr());
        let furthest = (products - Tensor::eye(basis.len() as i64, (Kind::Double, tch::Device::Cpu))).abs().max();
        assert!(basis.len() > 30 && furthest.double_value(&[]) < 1e-6, "{} {furthest:?}", basis.len());
        Ok(())
    }

    #[test]
    fn eigenvalues_and_vectors_are_those_of_the_explicit_hessian() -> Result<()> {
        for weighting in [Weighting::Plain, Weighting::Parameters] {
            let (model, data, matrix) = explicit(weighting, 32)?;
            let mut exact = Vec::<f64>::try_from(matrix.linalg_eigh("L").0)?;
            exact.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            let settings = Lanczos { count: 4, relative_error: 1e-4, weighting, ..Lanczos::default() };
            let found = settings.eigenvalues(&[("small", &model)], &data)?.remove(0);
            assert!(found.converged, "{weighting:?}: {:?}", found.residuals);
            for rank in 0..4 {
                let distance = (found.values[rank] - exact[rank]).abs();
                let allowed = found.residuals[rank] + 1e-5 * exact[0];
                assert!(distance <= allowed, "{weighting:?}, rank {rank}: {} {}", found.values[rank], exact[rank]);
                let vector = super::super::flat(found.vectors[rank].tensors())?.to_kind(Kind::Double);
                let residual = (matrix.mv(&vector) - &vector * found.values[rank]).norm().double_value(&[]);
                assert!(residual < found.residuals[rank] + 1e-4 * exact[0], "{weighting:?}, rank {rank}: {residual}");
            }
        }
        Ok(())
    }
}
