//! The spectral density by stochastic Lanczos quadrature (Ubaru, Chen, Saad 2017; Ghorbani, Krishnan, Xiao 2019).
//!
//! For a random vector `v` of length 1, the eigenvalues `θ_i` of the tridiagonal matrix of the Lanczos method that
//! starts at `v`, with the squares of the first entries of its eigenvectors as weights `w_i`, are a quadrature of the
//! spectrum: `E[Σ w_i f(θ_i)] = tr f(H) / d`, exact for polynomials up to degree `2 steps - 1`. A Gaussian of width `σ`
//! in the place of each `θ_i` makes a density of it.

use polars::prelude::DataFrame;

use super::super::evenly_spaced;
use super::super::statistics::mean_and_error;
use super::krylov::Krylov;
use super::{Hessian, Weighting};
use crate::chart::{Chart, Lines, Series};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::Model;
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;
use crate::rng::{Purpose, rng};
use crate::train::within;

/// Settings of the spectral density of the Hessian.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let settings = SpectralDensity { vectors: 3, steps: 10, ..SpectralDensity::default() };
/// let density = settings.of(("untrained", &model), &data.test)?;
/// let (mean, standard_error) = density.moment(1); // mean eigenvalue: the trace by the number of parameters
/// assert!(mean.is_finite() && standard_error > 0.0);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SpectralDensity {
    /// Random vectors; their spread gives the standard errors.
    pub vectors: usize,
    /// Lanczos steps for each: one product each.
    pub steps: usize,
    /// Width σ of the Gaussians, as a share of the range of the eigenvalues.
    pub width: f64,
    /// Places at which the density is given.
    pub points: usize,
    /// `H` or `diag|θ| H diag|θ|`.
    pub weighting: Weighting,
    /// Seed of the vectors.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for SpectralDensity {
    fn default() -> Self {
        SpectralDensity {
            vectors: 5,
            steps: 40,
            width: 0.005,
            points: 400,
            weighting: Weighting::Plain,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// The spectrum of one model's Hessian.
#[derive(Clone, Debug)]
pub struct Density {
    /// Name of the model.
    pub model: String,
    /// Name of the data set.
    pub data: String,
    /// Which matrix.
    pub weighting: Weighting,
    /// Number of eigenvalues: the number of parameters.
    pub dimension: usize,
    /// For each random vector its nodes and weights `(θ_i, w_i)`; the weights sum to 1.
    pub quadratures: Vec<Vec<(f64, f64)>>,
    /// Eigenvalues at which the density is given.
    pub eigenvalues: Vec<f64>,
    /// The density there, and its standard error; its integral is 1.
    pub densities: Vec<(f64, f64)>,
    /// Products it took.
    pub products: usize,
}

impl SpectralDensity {
    /// The spectral density of the Hessian of the mean cross-entropy on `data`, for a named model.
    ///
    /// # Errors
    /// Fewer than two vectors (no standard error), steps or points, a width that is not positive, NaN weights.
    pub fn of(&self, (name, model): (&str, &Model), data: &Dataset) -> Result<Density> {
        for (setting, value) in [("vectors", self.vectors), ("steps", self.steps), ("points", self.points)] {
            within(setting, value, 2)?;
        }
        if !(self.width > 0.0 && self.width.is_finite()) {
            let value = self.width.to_string();
            return Err(Error::Setting { setting: "width", value, requirement: "a positive number" });
        }
        let hessian = Hessian::new(model, data, self.weighting)?;
        let mut rng = rng(self.seed, Purpose::Probe);
        let mut task = self.progress.task("spectral density", self.vectors * self.steps);
        let mut products = 0;
        let mut quadratures = Vec::new();
        for _ in 0..self.vectors {
            let most = self.steps.min(hessian.dimension() as usize);
            let mut basis = Krylov::new(&hessian.signs(&mut rng)?, Vec::new())?;
            while basis.len() < most && !basis.exhausted() {
                basis.extend(&hessian)?;
                products += 1;
                task.step(String::new)?;
            }
            let ritz = basis.ritz()?;
            let weights = ritz.weights.iter().map(|weights| weights[0] * weights[0]);
            quadratures.push(ritz.values.into_iter().zip(weights).collect::<Vec<_>>());
        }
        task.finish();
        let nodes = || quadratures.iter().flatten().map(|node: &(f64, f64)| node.0);
        let (low, high) = (nodes().fold(f64::INFINITY, f64::min), nodes().fold(f64::NEG_INFINITY, f64::max));
        let sigma = (self.width * (high - low)).max(1e-9);
        let eigenvalues: Vec<f64> = evenly_spaced(low - 4.0 * sigma, high + 4.0 * sigma, self.points).collect();
        let gaussian = |x: f64| (-0.5 * (x / sigma).powi(2)).exp() / (sigma * std::f64::consts::TAU.sqrt());
        let at = |x: f64| {
            let of = |quadrature: &Vec<(f64, f64)>| quadrature.iter().map(|(node, w)| w * gaussian(x - node)).sum();
            mean_and_error(&quadratures.iter().map(of).collect::<Vec<f64>>())
        };
        Ok(Density {
            model: name.to_owned(),
            data: data.name().to_owned(),
            weighting: self.weighting,
            dimension: hessian.dimension() as usize,
            densities: eigenvalues.iter().map(|&x| at(x)).collect(),
            eigenvalues,
            quadratures,
            products,
        })
    }
}

impl Density {
    /// The mean of the eigenvalues' powers, `tr(Hᵏ) / d`, and its standard error.
    pub fn moment(&self, k: i32) -> (f64, f64) {
        let of = |quadrature: &Vec<(f64, f64)>| quadrature.iter().map(|(node, w)| w * node.powi(k)).sum();
        mean_and_error(&self.quadratures.iter().map(of).collect::<Vec<f64>>())
    }

    /// One row a place: eigenvalue, density, standard error.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.eigenvalues;
        frame([
            column("model", rows.iter().map(|_| self.model.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("weighting", rows.iter().map(|_| self.weighting.name())),
            column("eigenvalue", rows.iter().copied()),
            column("density", self.densities.iter().map(|density| density.0)),
            column("standard_error", self.densities.iter().map(|density| density.1)),
            column("products", rows.iter().map(|_| self.products as u64)),
        ])
    }

    /// The density on a logarithmic axis, beside those of other models.
    pub fn chart_beside(&self, others: &[&Density]) -> Chart {
        let all = || std::iter::once(self).chain(others.iter().copied());
        // One eigenvalue among all: what is lower is the tail of a Gaussian.
        let floor = |own: &Density| 0.01 / own.dimension as f64;
        let series = all().map(|own| {
            let floor = floor(own);
            let places = || own.eigenvalues.iter().zip(&own.densities);
            let points = places().map(|(&x, density)| (x, density.0.max(floor))).collect();
            let band = places().map(|(_, (mean, error))| ((mean - error).max(floor), (mean + error).max(floor)));
            let band = band.collect();
            Series::new(own.model.clone(), points).band(band).without_dots()
        });
        Lines::new("Spectral density of the Hessian", "eigenvalue", "density").series(series).log_y().into()
    }

    /// The density on a logarithmic axis, with its standard error as a band.
    pub fn chart(&self) -> Chart {
        self.chart_beside(&[])
    }
}

impl Show for Density {
    fn look(&self) -> Bundle {
        let [mean, square] = [1, 2].map(|k| self.moment(k));
        let remark = format!(
            "{} eigenvalues; mean {:.3e} ± {:.1e}, mean square {:.3e} ± {:.1e}; {} products",
            self.dimension, mean.0, mean.1, square.0, square.1, self.products
        );
        Bundle::table(&self.frame(), &remark)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::explicit;
    use super::*;

    #[test]
    fn standard_errors_cover_the_exact_moments_as_often_as_they_should() -> Result<()> {
        let (model, data, matrix) = explicit(Weighting::Plain, 32)?;
        let exact = Vec::<f64>::try_from(matrix.linalg_eigh("L").0)?;
        let moment = |k: i32| exact.iter().map(|value| value.powi(k)).sum::<f64>() / exact.len() as f64;
        let mut inside = [0; 3];
        for seed in 0..200 {
            let settings = SpectralDensity { vectors: 30, steps: 4, points: 2, seed, ..SpectralDensity::default() };
            let density = settings.of(("small", &model), &data)?;
            for k in 1..=3 {
                let (mean, error) = density.moment(k as i32);
                inside[k - 1] += usize::from((mean - moment(k as i32)).abs() <= 2.0 * error);
            }
        }
        assert!(inside.iter().all(|inside| (180..=198).contains(inside)), "{inside:?} of 200");
        Ok(())
    }

    #[test]
    fn a_density_is_the_mean_of_its_quadratures_each_of_as_many_products_as_steps() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Parameters, 32)?;
        let settings = SpectralDensity {
            vectors: 3,
            steps: 4,
            points: 50,
            width: 0.02,
            weighting: Weighting::Parameters,
            ..SpectralDensity::default()
        };
        let density = settings.of(("small", &model), &data)?;
        assert_eq!((density.products, density.dimension), (3 * 4, 109));
        let shape =
            |quadrature: &Vec<(f64, f64)>| (quadrature.len(), quadrature.iter().map(|node| node.1).sum::<f64>());
        assert!(density.quadratures.iter().map(shape).all(|(len, sum)| len == 4 && (sum - 1.0).abs() < 1e-9));
        let mut nodes: Vec<f64> = density.quadratures.iter().flatten().map(|node| node.0).collect();
        nodes.sort_by(f64::total_cmp);
        let sigma = 0.02 * (nodes[11] - nodes[0]);
        let (low, high) = (density.eigenvalues[0], density.eigenvalues[49]);
        assert!((low - nodes[0] + 4.0 * sigma).abs() < 1e-9 && (high - nodes[11] - 4.0 * sigma).abs() < 1e-9);
        for (x, (mean, error)) in density.eigenvalues.iter().zip(&density.densities) {
            let bell =
                |node: f64| (-(x - node).powi(2) / 2.0 / sigma.powi(2)).exp() / sigma / std::f64::consts::TAU.sqrt();
            let each = density.quadratures.iter().map(|own| own.iter().map(|(node, w)| w * bell(*node)).sum::<f64>());
            let each: Vec<f64> = each.collect();
            let expected = each.iter().sum::<f64>() / 3.0;
            let spread = each.iter().map(|own| (own - expected).powi(2)).sum::<f64>() / 2.0;
            let size = 1e-9 * (1.0 + expected);
            assert!(
                (mean - expected).abs() < size && (error - (spread / 3.0).sqrt()).abs() < size,
                "{x}: {mean} {error}"
            );
        }
        let weighting = density.frame().column("weighting").unwrap().str().unwrap().get(0).map(str::to_owned);
        assert_eq!(weighting.as_deref(), Some("parameters"));
        // No more steps than there are dimensions, and no more than the start reaches.
        let long = SpectralDensity { steps: 500, vectors: 2, ..SpectralDensity::default() }.of(("", &model), &data)?;
        assert!(long.quadratures.iter().all(|own| own.len() <= 109) && long.products <= 2 * 109, "{}", long.products);
        for width in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = SpectralDensity { width, ..SpectralDensity::default() }.of(("", &model), &data).unwrap_err();
            assert!(matches!(error, Error::Setting { setting: "width", .. }), "{error}");
        }
        Ok(())
    }

    #[test]
    fn density_is_that_of_the_exact_eigenvalues() -> Result<()> {
        let (model, data, matrix) = explicit(Weighting::Plain, 32)?;
        let exact = Vec::<f64>::try_from(matrix.linalg_eigh("L").0)?;
        let settings = SpectralDensity { vectors: 60, steps: 60, width: 0.05, ..SpectralDensity::default() };
        let density = settings.of(("small", &model), &data)?;
        let step = density.eigenvalues[1] - density.eigenvalues[0];
        let integral: f64 = density.densities.iter().map(|value| value.0 * step).sum();
        assert!((integral - 1.0).abs() < 1e-2, "{integral}");
        // Shares of the spectrum, as the density and as the eigenvalues tell them.
        let top = exact.last().copied().unwrap_or(0.0);
        for share in [0.1, 0.3, 0.6] {
            let places = density.eigenvalues.iter().zip(&density.densities);
            let found: f64 = places.filter(|(x, _)| **x > share * top).map(|(_, value)| value.0 * step).sum();
            let blurred = |value: f64| {
                let sigma = 0.05 * (top - exact[0]);
                statrs::function::erf::erfc((share * top - value) / (sigma * std::f64::consts::SQRT_2)) / 2.0
            };
            let expected = exact.iter().map(|&value| blurred(value)).sum::<f64>() / exact.len() as f64;
            assert!((found - expected).abs() < 0.02, "above {share}: {found} instead of {expected}");
        }
        Ok(())
    }
}
