//! The largest eigenvalues by the Lanczos method with full re-orthogonalisation (Lanczos 1950; Golub & Van Loan, ch. 10).

use polars::prelude::DataFrame;
use tch::Tensor;

use super::{Hessian, Weighting};
use crate::chart::{Chart, Lines, Series};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::{Model, Params, dot};
use crate::progress::{Progress, Task};
use crate::rng::{Purpose, normal, rng};

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
    /// Whether every residual is as small as was wanted.
    pub converged: bool,
}

impl Lanczos {
    /// The eigenvalues of largest magnitude of the Hessian of the mean cross-entropy on `data`, for named models.
    ///
    /// # Errors
    /// No eigenvalues wanted, more than products or parameters, NaN weights, data that do not fit.
    pub fn eigenvalues(&self, models: &[(&str, &Model)], data: &Dataset) -> Result<Vec<Eigenvalues>> {
        super::check_relative_error(Some(self.relative_error))?;
        let smallest = models.iter().map(|(_, model)| model.params.numel()).min().unwrap_or(usize::MAX);
        if self.count == 0 || self.count > self.max_products.min(smallest) {
            let requirement = "at least 1, and no more than `max_products` or the number of parameters";
            return Err(Error::Setting { setting: "count", value: self.count.to_string(), requirement });
        }
        let mut task = self.progress.task("Hessian eigenvalues", models.len().saturating_mul(self.max_products));
        models.iter().map(|(name, model)| self.of_model(name, model, data, &mut task)).collect()
    }

    fn of_model(&self, name: &str, model: &Model, data: &Dataset, task: &mut Task) -> Result<Eigenvalues> {
        let hessian = Hessian::new(model, data, self.weighting)?;
        let mut rng = rng(self.seed, Purpose::Probe);
        let dimension = hessian.dimension() as usize;
        let most = self.max_products.min(dimension).min(affordable(&model.params));
        let mut basis = Krylov::new(&hessian.signs(&mut rng)?)?;
        loop {
            basis.extend(&hessian)?;
            let ritz = basis.ritz()?;
            let mut order: Vec<usize> = (0..ritz.values.len()).collect();
            order.sort_by(|&a, &b| ritz.values[b].abs().total_cmp(&ritz.values[a].abs()));
            order.truncate(self.count);
            let goal = self.relative_error * ritz.values[order[0]].abs();
            let settled = order.len() == self.count && order.iter().all(|&index| ritz.residuals[index] <= goal);
            task.step(|| format!("largest {:.4}", ritz.values[order[0]]));
            let least = order.last().map_or(0.0, |&index| ritz.values[index].abs());
            let converged = settled && (basis.len() == dimension || basis.misses_none_above(least, goal)?);
            if converged || basis.len() >= most {
                let vectors = order.iter().map(|&index| shaped(&basis.combine(&ritz.weights[index])?, &model.params));
                return Ok(Eigenvalues {
                    model: name.to_owned(),
                    data: data.name().to_owned(),
                    weighting: self.weighting,
                    values: order.iter().map(|&index| ritz.values[index]).collect(),
                    residuals: order.iter().map(|&index| ritz.residuals[index]).collect(),
                    vectors: vectors.collect::<Result<_>>()?,
                    products: basis.len(),
                    converged,
                });
            }
            if basis.exhausted() {
                basis.go_on_in_what_is_left(&normal(&[dimension as i64], &mut rng)?)?;
            }
        }
    }
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

/// An orthonormal basis in which the Hessian is tridiagonal: `α` on the diagonal, `β` beside it.
pub(super) struct Krylov {
    /// The vectors as rows of some matrices `[up to ROWS, d]`.
    vectors: Vec<Tensor>,
    next: Tensor,
    alpha: Vec<f64>,
    beta: Vec<f64>,
    /// The first vector of the space that is being searched; those before it span spaces that the Hessian does not leave.
    space: usize,
}

/// Vectors that are put together as one matrix: the basis grows by so many, as it needs them.
const ROWS: usize = 16;

/// Eigenvalues of the tridiagonal matrix, in rising order.
pub(super) struct Ritz {
    pub values: Vec<f64>,
    pub residuals: Vec<f64>,
    /// For each value its eigenvector in terms of the basis.
    pub weights: Vec<Vec<f64>>,
}

impl Krylov {
    /// A basis that begins with `start`.
    pub(super) fn new(start: &Tensor) -> Result<Krylov> {
        let next = start.f_div_scalar(dot(start, start)?.sqrt())?;
        Ok(Krylov { vectors: Vec::new(), next, alpha: Vec::new(), beta: Vec::new(), space: 0 })
    }

    pub(super) fn len(&self) -> usize {
        self.alpha.len()
    }

    /// Whether the basis spans a space that the Hessian does not leave: the values are exact.
    pub(super) fn exhausted(&self) -> bool {
        self.beta.last().is_some_and(|&last| last <= 1e-6 * self.size())
    }

    /// The largest entry of the tridiagonal matrix.
    fn size(&self) -> f64 {
        let beta = &self.beta[..self.beta.len().saturating_sub(1)];
        self.alpha.iter().chain(beta).map(|x| x.abs()).fold(0.0, f64::max)
    }

    /// One more product.
    pub(super) fn extend(&mut self, hessian: &Hessian) -> Result<()> {
        let row = (self.len() % ROWS) as i64;
        if row == 0 {
            let shape = [ROWS as i64, self.next.size()[0]];
            self.vectors.push(Tensor::f_empty(shape, (self.next.kind(), self.next.device()))?);
        }
        if let Some(last) = self.vectors.last() {
            last.f_select(0, row)?.f_copy_(&self.next)?;
        }
        let mut product = hessian.products(std::slice::from_ref(&self.next))?.remove(0);
        self.alpha.push(dot(&product, &self.next)?);
        // Twice: in f32 once would leave the basis far from orthogonal.
        for _ in 0..2 {
            product = self.orthogonal(&product)?;
        }
        let beta = dot(&product, &product)?.sqrt();
        self.beta.push(beta);
        self.next = product.f_div_scalar(beta.max(f64::MIN_POSITIVE))?;
        Ok(())
    }

    /// Starts again with a vector orthogonal to all so far: a space that is used up holds each eigenvalue once, however
    /// many times it occurs, and misses those that its first vector had no part of.
    fn go_on_in_what_is_left(&mut self, start: &Tensor) -> Result<()> {
        let mut start = start.f_to_kind(self.next.kind())?.f_to_device(self.next.device())?;
        for _ in 0..2 {
            start = self.orthogonal(&start)?;
            start = start.f_div_scalar(dot(&start, &start)?.sqrt().max(f64::MIN_POSITIVE))?;
        }
        self.next = start;
        self.space = self.len();
        if let Some(last) = self.beta.last_mut() {
            *last = 0.0; // as small as rounding, and no coupling to the new vector
        }
        Ok(())
    }

    /// Whether no eigenvalue of larger magnitude can be missing: the space is not used up, so that its first vector had a
    /// part of every eigenvector; or a space used up was followed by another, whose largest value is known and no larger.
    fn misses_none_above(&self, least: f64, goal: f64) -> Result<bool> {
        let open = self.beta.last().is_some_and(|&last| last > goal);
        if self.space == 0 {
            return Ok(open);
        }
        let own = self.ritz_from(self.space)?;
        let largest = (0..own.values.len()).max_by(|&a, &b| own.values[a].abs().total_cmp(&own.values[b].abs()));
        Ok(largest.is_some_and(|index| own.residuals[index] <= goal && own.values[index].abs() <= least + goal))
    }

    /// A vector without its part in the basis.
    fn orthogonal(&self, vector: &Tensor) -> Result<Tensor> {
        self.matrices()?.iter().try_fold(vector.shallow_clone(), |vector, rows| {
            Ok(vector.f_sub(&rows.f_tr()?.f_mv(&rows.f_mv(&vector)?)?)?)
        })
    }

    /// The vectors so far, as matrices of rows.
    fn matrices(&self) -> Result<Vec<Tensor>> {
        let lengths = (0..self.len()).step_by(ROWS).map(|start| ROWS.min(self.len() - start) as i64);
        self.vectors.iter().zip(lengths).map(|(rows, len)| Ok(rows.f_narrow(0, 0, len)?)).collect()
    }

    pub(super) fn ritz(&self) -> Result<Ritz> {
        self.ritz_from(0)
    }

    /// The values that the vectors from `start` on give.
    fn ritz_from(&self, start: usize) -> Result<Ritz> {
        let (alpha, beta) = (&self.alpha[start..], &self.beta[start..]);
        let m = alpha.len();
        let mut matrix = vec![0.0; m * m];
        for i in 0..m {
            matrix[i * m + i] = alpha[i];
            if i + 1 < m {
                matrix[i * m + i + 1] = beta[i];
                matrix[(i + 1) * m + i] = beta[i];
            }
        }
        let matrix = Tensor::f_from_slice(&matrix)?.f_view([m as i64, m as i64])?;
        let (values, vectors) = matrix.f_linalg_eigh("L")?;
        let weights: Vec<Vec<f64>> = (0..m as i64)
            .map(|column| Ok(Vec::<f64>::try_from(vectors.f_select(1, column)?.f_contiguous()?)?))
            .collect::<Result<_>>()?;
        let last = beta[m - 1];
        let residuals = weights.iter().map(|weights| (last * weights[m - 1]).abs()).collect();
        Ok(Ritz { values: Vec::try_from(values)?, residuals, weights })
    }

    /// `Σ weights[i] basis[i]`.
    fn combine(&self, weights: &[f64]) -> Result<Tensor> {
        let weights = Tensor::f_from_slice(weights)?.f_to_kind(self.next.kind())?.f_to_device(self.next.device())?;
        let mut sum = self.next.f_zeros_like()?;
        let mut start = 0;
        for rows in self.matrices()? {
            let own = weights.f_narrow(0, start, rows.size()[0])?;
            sum = sum.f_add(&rows.f_tr()?.f_mv(&own)?)?;
            start += rows.size()[0];
        }
        Ok(sum)
    }
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

    /// Shows the table in the notebook.
    pub fn evcxr_display(&self) {
        let end = if self.converged {
            "converged"
        } else {
            "stopped before the residuals were small, at `max_products` or the limit of memory"
        };
        crate::notebook::show_frame(&self.frame(), &format!("{} products, {end}", self.products));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::explicit;
    use super::*;
    use tch::Kind;

    #[test]
    fn the_basis_stays_orthonormal_in_single_precision() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Plain)?;
        let hessian = Hessian::new(&model, &data, Weighting::Plain)?;
        let mut basis = Krylov::new(&hessian.signs(&mut rng(0, Purpose::Probe))?)?;
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
            let (model, data, matrix) = explicit(weighting)?;
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
