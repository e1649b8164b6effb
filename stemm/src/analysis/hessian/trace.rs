//! The trace by Hutchinson's estimator (1989) and by Hutch++ (Meyer et al. 2021).
//!
//! For a vector `v` of independent signs, `E[vᵀ H v] = tr(H)`. Hutch++ first finds a basis `Q` of the directions that `H`
//! stretches most, takes the trace on it exactly, `tr(Qᵀ H Q)`, and estimates only the rest: a few eigenvalues stand out in
//! the Hessian of a trained network, and they make most of the variance.

use polars::prelude::DataFrame;
use tch::Tensor;

use super::super::statistics::mean_and_error;
use super::{Hessian, Weighting};
use crate::chart::{Bars, Chart};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::{Model, dot};
use crate::notebook::{Bundle, Show};
use crate::progress::{Progress, Task};
use crate::rng::{Purpose, rng};

/// How random vectors become a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimator {
    /// The mean of `vᵀ H v`: one product a vector.
    #[default]
    Hutchinson,
    /// The exact trace on the span of `basis` images of random vectors, and Hutchinson's on the rest.
    HutchPlusPlus {
        /// Dimension of the span; each takes two products more.
        basis: usize,
    },
}

/// Settings of the trace of the Hessian.
#[derive(Clone, Debug)]
pub struct Hutchinson {
    /// Random vectors, at most; all batches see the same ones, so that the estimate is of one Hessian.
    pub vectors: usize,
    /// The vectors are drawn ten at a time until the standard error is at most this share of the estimate, if it is given.
    pub relative_error: Option<f64>,
    /// How the vectors become a trace.
    pub estimator: Estimator,
    /// Which trace is estimated: `tr(H)` or `tr(diag|θ| H diag|θ|)`.
    pub weighting: Weighting,
    /// Seed of the vectors.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Hutchinson {
    fn default() -> Self {
        Hutchinson {
            vectors: 20,
            relative_error: None,
            estimator: Estimator::Hutchinson,
            weighting: Weighting::Parameters,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// An estimated trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceEstimate {
    /// Name of the model.
    pub model: String,
    /// Name of the data set.
    pub data: String,
    /// Which trace.
    pub weighting: Weighting,
    /// The part that is exact: 0 but for Hutch++.
    pub exact: f64,
    /// The estimate of the rest from each random vector.
    pub samples: Vec<f64>,
    /// Products of the Hessian with a vector that it took.
    pub products: usize,
}

impl TraceEstimate {
    /// The estimate.
    pub fn mean(&self) -> f64 {
        self.exact + mean_and_error(&self.samples).0
    }

    /// Standard error of the estimate.
    pub fn standard_error(&self) -> f64 {
        mean_and_error(&self.samples).1
    }
}

/// Traces of several models.
#[derive(Clone, Debug)]
pub struct Traces {
    /// One estimate a model.
    pub estimates: Vec<TraceEstimate>,
}

/// Vectors that share a pass over the data; also those between two looks at the standard error.
const TOGETHER: usize = 10;

impl Hutchinson {
    /// Estimates the trace of the Hessian of the mean cross-entropy on `data`, in evaluation mode, for named models.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let data = blobs(0, Device::Cpu)?;
    /// let network = Network::mlp(&[16, 8, 4])?;
    /// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
    /// let traces = Hutchinson { vectors: 5, ..Hutchinson::default() }.traces(&[("untrained", &model)], &data.test)?;
    /// assert!(traces.estimates[0].mean().is_finite());
    /// # Ok::<(), stemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// Fewer than two vectors (no standard error), NaN weights, data that do not fit.
    pub fn traces(&self, models: &[(&str, &Model)], data: &Dataset) -> Result<Traces> {
        if self.vectors < 2 {
            let requirement = "at least 2, since one has no standard error";
            return Err(Error::Setting { setting: "vectors", value: self.vectors.to_string(), requirement });
        }
        if models.is_empty() {
            return Err(Error::TooFewModels { operation: "a look at the Hessian", found: 0, needed: 1 });
        }
        super::check_relative_error(self.relative_error)?;
        let smallest = models.iter().map(|(_, model)| model.params.numel()).min().unwrap_or(usize::MAX);
        if let Estimator::HutchPlusPlus { basis } = self.estimator
            && !(1..smallest).contains(&basis)
        {
            let requirement = "at least 1 and less than the number of parameters";
            return Err(Error::Setting { setting: "basis", value: basis.to_string(), requirement });
        }
        let mut task = self.progress.task("Hessian trace", models.len() * self.vectors.div_ceil(TOGETHER));
        let estimates = models.iter().map(|(name, model)| self.estimate(name, model, data, &mut task));
        let estimates = estimates.collect::<Result<_>>()?;
        task.finish();
        Ok(Traces { estimates })
    }

    fn estimate(&self, name: &str, model: &Model, data: &Dataset, task: &mut Task) -> Result<TraceEstimate> {
        let hessian = Hessian::new(model, data, self.weighting)?;
        let mut rng = rng(self.seed, Purpose::Probe);
        let mut estimate = TraceEstimate {
            model: name.to_owned(),
            data: data.name().to_owned(),
            weighting: self.weighting,
            exact: 0.0,
            samples: Vec::new(),
            products: 0,
        };
        let basis = match self.estimator {
            Estimator::Hutchinson => None,
            Estimator::HutchPlusPlus { basis } => {
                let sketch: Vec<Tensor> = (0..basis).map(|_| hessian.signs(&mut rng)).collect::<Result<_>>()?;
                let stretched = Tensor::f_stack(&hessian.products(&sketch)?, 1)?;
                let basis = Tensor::f_linalg_qr(&stretched, "reduced")?.0; // [d, vectors]
                let columns: Vec<Tensor> = (0..basis.size()[1]).map(|column| basis.select(1, column)).collect();
                for (product, column) in hessian.products(&columns)?.iter().zip(&columns) {
                    estimate.exact += dot(product, column)?;
                }
                estimate.products += 2 * sketch.len();
                Some(basis)
            }
        };
        while estimate.samples.len() < self.vectors {
            let count = TOGETHER.min(self.vectors - estimate.samples.len());
            let vectors = (0..count).map(|_| -> Result<Tensor> {
                let vector = hessian.signs(&mut rng)?;
                Ok(match &basis {
                    None => vector,
                    Some(basis) => vector.f_sub(&basis.f_mv(&basis.f_tr()?.f_mv(&vector)?)?)?,
                })
            });
            let vectors: Vec<Tensor> = vectors.collect::<Result<_>>()?;
            for (product, vector) in hessian.products(&vectors)?.iter().zip(&vectors) {
                estimate.samples.push(dot(product, vector)?);
            }
            estimate.products += count;
            let (mean, error) = (estimate.mean(), estimate.standard_error());
            task.step(|| format!("{mean:.4} ± {error:.4}"))?;
            if self.relative_error.is_some_and(|goal| error <= goal * mean.abs()) {
                break;
            }
        }
        Ok(estimate)
    }
}

impl Traces {
    /// One row a model: trace, standard error, number of vectors and of products, data set.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.estimates;
        frame([
            column("model", rows.iter().map(|row| row.model.as_str())),
            column("data_set", rows.iter().map(|row| row.data.as_str())),
            column("weighting", rows.iter().map(|row| row.weighting.name())),
            column("trace", rows.iter().map(TraceEstimate::mean)),
            column("standard_error", rows.iter().map(TraceEstimate::standard_error)),
            column("vectors", rows.iter().map(|row| row.samples.len() as u64)),
            column("products", rows.iter().map(|row| row.products as u64)),
        ])
    }

    /// The traces with their standard errors.
    pub fn chart(&self) -> Chart {
        let bars = self.estimates.iter().map(|row| (row.model.clone(), row.mean(), row.standard_error())).collect();
        let label = match self.estimates.first().map(|row| row.weighting) {
            Some(Weighting::Parameters) => "weighted Hessian trace (nats)",
            _ => "Hessian trace",
        };
        Bars::new("Sharpness", label, bars).into()
    }
}

impl Show for Traces {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), "")
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::explicit;
    use super::*;
    use tch::Kind;

    /// Share of 200 seeds for which the truth lies within two standard errors: 92 % if the ten samples were normal.
    fn coverage(settings: &Hutchinson) -> Result<f64> {
        let (model, data, matrix) = explicit(settings.weighting)?;
        let exact = matrix.diag(0).sum(Kind::Double).double_value(&[]);
        let inside = (0..200).map(|seed| {
            let estimate = &Hutchinson { seed, ..settings.clone() }.traces(&[("", &model)], &data)?.estimates[0];
            Ok(usize::from((estimate.mean() - exact).abs() <= 2.0 * estimate.standard_error()))
        });
        Ok(inside.sum::<Result<usize>>()? as f64 / 200.0)
    }

    #[test]
    fn standard_errors_cover_the_exact_trace_as_often_as_they_should() -> Result<()> {
        for weighting in [Weighting::Plain, Weighting::Parameters] {
            for estimator in [Estimator::Hutchinson, Estimator::HutchPlusPlus { basis: 10 }] {
                let settings = Hutchinson {
                    vectors: 30,
                    estimator,
                    weighting,
                    progress: Progress::Silent,
                    ..Hutchinson::default()
                };
                let share = coverage(&settings)?;
                assert!((0.87..=0.98).contains(&share), "{weighting:?}, {estimator:?}: {share}");
            }
        }
        Ok(())
    }

    #[test]
    fn vectors_are_drawn_until_the_relative_error_is_reached_and_no_longer() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Parameters)?;
        let settings = Hutchinson { vectors: 1000, relative_error: Some(0.1), ..Hutchinson::default() };
        let estimate = &settings.traces(&[("", &model)], &data)?.estimates[0];
        let error = |samples: &[f64]| {
            let part = TraceEstimate { samples: samples.to_vec(), ..estimate.clone() };
            part.standard_error() / part.mean()
        };
        let count = estimate.samples.len();
        assert!(count < 1000 && error(&estimate.samples) <= 0.1, "{count}");
        assert!(error(&estimate.samples[..count - TOGETHER]) > 0.1, "{count}");
        assert_eq!(estimate.products, count);
        Ok(())
    }
}
