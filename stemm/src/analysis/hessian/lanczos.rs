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

    /// A model whose Hessian has a quarter of each of these values three times, and else zeros, for inputs times `scale`.
    fn with_spectrum(values: &[f64], scale: f64) -> Result<(Model, Dataset)> {
        use crate::network::{Conv2d, Flatten, Network};
        let inputs = values.len() as i64;
        let layers = [("all", Conv2d::new(inputs, 4, 1).without_bias().into()), ("flatten", Flatten.into())];
        let network = Network::new([inputs, 1, 1], layers)?;
        let params = network.init(0, tch::Device::Cpu)?.scaled(0.0)?; // every class is as likely
        let roots: Vec<f32> = values.iter().map(|value| ((value * inputs as f64).sqrt() * scale) as f32).collect();
        let x = Tensor::from_slice(&roots).diag(0);
        let x = Tensor::cat(&[&x, &-&x], 0).view([2 * inputs, inputs, 1, 1]);
        let labels = Tensor::arange(2 * inputs, (Kind::Int64, tch::Device::Cpu)).remainder(4);
        Ok((Model::new(network, params)?, Dataset::new("axes", x, labels, 4)?))
    }

    #[test]
    fn a_scaled_hessian_has_scaled_eigenvalues_after_as_many_products() -> Result<()> {
        let values: Vec<f64> = (1..=16).map(f64::from).collect();
        let search = Lanczos { count: 4, ..Lanczos::default() };
        let run = |scale: f64| {
            let (model, data) = with_spectrum(&values, scale)?;
            Ok::<_, Error>(search.eigenvalues(&[("", &model)], &data)?.remove(0))
        };
        let plain = run(1.0)?;
        assert!(
            plain.values.iter().zip([4.0, 4.0, 4.0, 3.75]).all(|(a, b)| (a - b).abs() < 1e-2),
            "{:?}",
            plain.values
        );
        for power in [-24, 24] {
            let scaled = run(2f64.powi(power / 2))?;
            assert_eq!((scaled.products, scaled.converged), (plain.products, true), "2^{power}");
            let unscaled = scaled.values.iter().map(|value| value / 2f64.powi(power));
            assert!(unscaled.zip(&plain.values).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", scaled.values);
        }
        // Where one value is wanted, its other copies are not looked for.
        let (model, data) = with_spectrum(&values, 1.0)?;
        let one = Lanczos { count: 1, ..search.clone() }.eigenvalues(&[("", &model)], &data)?.remove(0);
        assert!(one.converged && 3 * one.products < 2 * plain.products, "{} of {}", one.products, plain.products);
        Ok(())
    }

    #[test]
    fn a_second_copy_is_found_before_a_value_that_is_a_little_smaller() -> Result<()> {
        let values: Vec<f64> = [1.0, 0.95].into_iter().chain((1..=14).map(|k| 0.02 * f64::from(k))).collect();
        let (model, data) = with_spectrum(&values, 1.0)?;
        for seed in 0..20 {
            let found = Lanczos { count: 2, seed, ..Lanczos::default() }.eigenvalues(&[("", &model)], &data)?.remove(0);
            assert!(
                found.converged && found.values.iter().all(|value| (value - 0.25).abs() < 1e-3),
                "{:?}",
                found.values
            );
        }
        Ok(())
    }

    #[test]
    fn as_many_eigenvalues_are_found_as_there_can_be_and_ranked_from_one_on() -> Result<()> {
        let network = crate::network::Network::mlp(&[2, 3])?;
        let model = Model::new(network.clone(), network.init(0, tch::Device::Cpu)?)?;
        let x = Tensor::from_slice(&[1f32, 2.0, -1.0, 0.5, 0.0, 3.0]).view([3, 2]);
        let data = Dataset::new("three", x, Tensor::from_slice(&[0i64, 1, 2]), 3)?;
        let search = |count, max_products| Lanczos { count, max_products, ..Lanczos::default() };
        let run = |search: Lanczos| search.eigenvalues(&[("", &model), ("again", &model)], &data);
        for (count, max_products) in [(0, 100), (10, 100), (4, 3)] {
            let error = run(search(count, max_products)).unwrap_err();
            assert!(matches!(error, Error::Setting { setting: "count", .. }), "{error}");
        }
        assert!(matches!(search(1, 9).eigenvalues(&[], &data), Err(Error::TooFewModels { .. })));
        assert!(run(search(3, 3)).is_ok());
        let found = run(search(9, 100))?.remove(1); // 9 parameters
        assert_eq!((found.values.len(), found.vectors.len(), found.converged), (9, 9, true));
        let frame = found.frame();
        let ranks = frame.column("rank").unwrap().u64().unwrap();
        assert_eq!(ranks.iter().flatten().collect::<Vec<_>>(), (1..=9).collect::<Vec<_>>());
        assert_eq!(frame.column("weighting").unwrap().str().unwrap().get(0), Some("plain"));
        let products = frame.column("products").unwrap().u64().unwrap().get(8).unwrap() as usize;
        assert!(products == found.products && (9..100).contains(&products), "{products}");
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
            // Cut short, it says how far it was.
            let cut =
                Lanczos { count: 2, max_products: 6, ..settings }.eigenvalues(&[("small", &model)], &data)?.remove(0);
            for rank in 0..2 {
                let vector = super::super::flat(cut.vectors[rank].tensors())?.to_kind(Kind::Double);
                let residual = (matrix.mv(&vector) - &vector * cut.values[rank]).norm().double_value(&[]);
                let (found, allowed) = (cut.residuals[rank], 1e-4 * exact[0]);
                assert!(
                    residual > 2.0 * allowed && (found - residual).abs() < allowed,
                    "{found} instead of {residual}"
                );
            }
        }
        Ok(())
    }
}
