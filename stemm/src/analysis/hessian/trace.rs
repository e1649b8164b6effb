//! The trace by Hutchinson's estimator (1989) and by Hutch++ (Meyer et al. 2021).
//!
//! For a vector `v` of independent signs, `E[vᵀ H v] = tr(H)`. Hutch++ first finds a basis `Q` of the directions that `H`
//! stretches most, takes the trace on it exactly, `tr(Qᵀ H Q)`, and estimates only the rest: a few eigenvalues stand out in
//! the Hessian of a trained network, and they make most of the variance.
//!
//! The trace is linear in the data: `tr(H) = Σ share_b tr(H_b)` over batches `b`. So every batch draws vectors of its own,
//! whose errors average out, where one vector for all of the data would bring the same error into every batch.

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hutchinson {
    /// Passes over the data, at most; in each of them every batch of up to 100 samples draws a random vector of its own.
    pub vectors: usize,
    /// Ends as soon as the standard error is at most this share of the estimate, if it is given.
    pub relative_error: Option<f64>,
    /// How the vectors become a trace.
    pub estimator: Estimator,
    /// Which trace is estimated: `tr(H)` or `tr(diag|θ| H diag|θ|)`.
    pub weighting: Weighting,
    /// Seed of the vectors.
    pub seed: u64,
    /// Where progress is shown.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for Hutchinson {
    fn default() -> Self {
        Hutchinson {
            vectors: 100,
            relative_error: Some(0.05),
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
    /// The estimates of the rest, batch by batch.
    pub batches: Vec<BatchTrace>,
    /// Products of the Hessian of all data with a vector that it took.
    pub products: usize,
}

/// The estimates of a trace from one batch of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchTrace {
    /// The batch's share in the samples.
    pub share: f64,
    /// The estimate from each random vector.
    pub samples: Vec<f64>,
}

impl TraceEstimate {
    /// The estimate.
    pub fn mean(&self) -> f64 {
        self.exact + self.batches.iter().map(|batch| batch.share * mean_and_error(&batch.samples).0).sum::<f64>()
    }

    /// Standard error of the estimate, from how the vectors of each batch scatter: that of the trace on these data, which says
    /// nothing about other data.
    pub fn standard_error(&self) -> f64 {
        let errors = self.batches.iter().map(|batch| batch.share * mean_and_error(&batch.samples).1);
        errors.map(|error| error * error).sum::<f64>().sqrt()
    }

    /// Random vectors of each batch.
    pub fn vectors(&self) -> usize {
        self.batches.first().map_or(0, |batch| batch.samples.len())
    }
}

/// Traces of several models.
#[derive(Clone, Debug)]
pub struct Traces {
    /// One estimate a model.
    pub estimates: Vec<TraceEstimate>,
}

/// Vectors of a batch that share its gradient, at most; also those between two looks at the standard error.
const TOGETHER: usize = 10;
/// Degrees of freedom below which a standard error is too uncertain to stop by: by chance it may be next to nothing.
const FREEDOM: usize = 9;
/// Samples of a batch, at most. The estimates of smaller ones hardly vary more; but with fewer than this, what does not depend
/// on the number of samples takes most of the time.
const BATCH: usize = 100;

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
        let smallest = models.iter().map(|(_, model)| model.params.numel()).min().unwrap_or(usize::MAX);
        self.check(smallest)?;
        if models.is_empty() {
            return Err(Error::TooFewModels { operation: "a look at the Hessian", found: 0, needed: 1 });
        }
        let mut task = self.progress.task("Hessian trace", models.len().saturating_mul(self.vectors));
        let estimates = models.iter().map(|(name, model)| self.estimate(name, model, data, &mut task));
        let estimates = estimates.collect::<Result<_>>()?;
        task.finish();
        Ok(Traces { estimates })
    }

    /// Refuses settings that no model of so many parameters can have.
    pub(crate) fn check(&self, parameters: usize) -> Result<()> {
        if self.vectors < 2 {
            let requirement = "at least 2, since one has no standard error";
            return Err(Error::Setting { setting: "vectors", value: self.vectors.to_string(), requirement });
        }
        if let Estimator::HutchPlusPlus { basis } = self.estimator
            && !(1..parameters).contains(&basis)
        {
            let requirement = "at least 1 and less than the number of parameters";
            return Err(Error::Setting { setting: "basis", value: basis.to_string(), requirement });
        }
        super::check_relative_error(self.relative_error)
    }

    fn estimate(&self, name: &str, model: &Model, data: &Dataset, task: &mut Task) -> Result<TraceEstimate> {
        let hessian = Hessian::new(model, data, self.weighting)?;
        let mut rng = rng(self.seed, Purpose::Probe);
        let mut estimate = TraceEstimate {
            model: name.to_owned(),
            data: data.name().to_owned(),
            weighting: self.weighting,
            exact: 0.0,
            batches: Vec::new(),
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
        let mut draw = || -> Result<Tensor> {
            let vector = hessian.signs(&mut rng)?;
            Ok(match &basis {
                None => vector,
                Some(basis) => vector.f_sub(&basis.f_mv(&basis.f_tr()?.f_mv(&vector)?)?)?,
            })
        };
        let mut missing = if self.relative_error.is_some() { 2 } else { TOGETHER };
        while estimate.vectors() < self.vectors && missing > 0 {
            let count = missing.min(TOGETHER).min(self.vectors - estimate.vectors());
            for (index, (share, samples)) in hessian.forms(BATCH, count, &mut draw)?.into_iter().enumerate() {
                match estimate.batches.get_mut(index) {
                    Some(batch) => batch.samples.extend(samples),
                    None => estimate.batches.push(BatchTrace { share, samples }),
                }
            }
            estimate.products += count;
            missing = self.missing(&estimate);
            for _ in 0..count {
                task.step(|| format!("{:.4} ± {:.4}", estimate.mean(), estimate.standard_error()))?;
            }
        }
        task.spare(self.vectors - estimate.vectors());
        Ok(estimate)
    }
}

impl Hutchinson {
    /// How many more vectors the relative error asks for, by what is known so far.
    fn missing(&self, estimate: &TraceEstimate) -> usize {
        let Some(goal) = self.relative_error else { return usize::MAX };
        let (vectors, batches) = (estimate.vectors(), estimate.batches.len());
        let least = 1 + FREEDOM.div_ceil(batches);
        let (error, allowed) = (estimate.standard_error(), goal * estimate.mean().abs());
        if vectors < least {
            least - vectors
        } else if error <= allowed {
            0
        } else {
            // The error falls as one by the root of their number.
            (vectors as f64 * ((error / allowed).powi(2) - 1.0)).ceil().max(1.0) as usize
        }
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
            column("vectors", rows.iter().map(|row| row.vectors() as u64)),
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

    /// Share of 200 seeds for which the truth lies within two standard errors: 92 to 95 % if the samples were normal.
    fn coverage(settings: &Hutchinson, samples: usize) -> Result<f64> {
        let (model, data, matrix) = explicit(settings.weighting, samples)?;
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
                // One batch, and three of different sizes.
                for (samples, vectors) in [(32, 30), (2 * BATCH + 99, 5)] {
                    let settings = Hutchinson {
                        vectors,
                        relative_error: None,
                        estimator,
                        weighting,
                        progress: Progress::Silent,
                        ..Hutchinson::default()
                    };
                    let share = coverage(&settings, samples)?;
                    assert!((0.87..=0.99).contains(&share), "{weighting:?}, {estimator:?}, {samples} samples: {share}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn means_and_errors_of_batches_are_put_together_by_their_shares() {
        let batch = |share, samples: &[f64]| BatchTrace { share, samples: samples.to_vec() };
        let mut estimate = TraceEstimate {
            model: String::new(),
            data: String::new(),
            weighting: Weighting::Plain,
            exact: 2.0,
            batches: vec![batch(0.25, &[1.0, 3.0]), batch(0.75, &[2.0, 2.0, 5.0])],
            products: 0,
        };
        assert_eq!((estimate.mean(), estimate.vectors()), (2.0 + 0.25 * 2.0 + 0.75 * 3.0, 2));
        assert!((estimate.standard_error() - 0.25f64.hypot(0.75)).abs() < 1e-12); // each batch's own error is 1
        let bars = |estimate: &TraceEstimate| Traces { estimates: vec![estimate.clone()] }.chart().svg().unwrap();
        assert!(!bars(&estimate).contains("weighted Hessian trace"));
        estimate.weighting = Weighting::Parameters;
        assert!(bars(&estimate).contains("weighted Hessian trace"));
    }

    #[test]
    fn as_many_vectors_are_drawn_as_the_settings_say_and_products_are_counted() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Plain, 2 * BATCH + 99)?; // three batches
        let one = data.take(BATCH)?;
        let run =
            |settings: &Hutchinson, data| Ok::<_, Error>(settings.traces(&[("", &model)], data)?.estimates.remove(0));
        let plain = Hutchinson { vectors: 23, relative_error: None, ..Hutchinson::default() };
        let basis = |basis| Hutchinson { estimator: Estimator::HutchPlusPlus { basis }, ..plain.clone() };
        for (settings, products) in [(&plain, 23), (&basis(4), 2 * 4 + 23)] {
            let found = run(settings, &data)?;
            assert!(found.batches.len() == 3 && found.batches.iter().all(|batch| batch.samples.len() == 23));
            let shares: Vec<f64> = found.batches.iter().map(|batch| batch.share).collect();
            assert!(shares.iter().sum::<f64>() == 1.0 && shares[0] == 100.0 / 299.0, "{shares:?}");
            assert_eq!(found.products, products);
        }
        // Any error will do: what is drawn gives it FREEDOM degrees of freedom, and no more.
        let lax = Hutchinson { relative_error: Some(1e9), ..plain.clone() };
        assert_eq!((run(&lax, &one)?.vectors(), run(&lax, &data)?.vectors()), (1 + FREEDOM, 1 + FREEDOM / 3));
        // None will: all of them are drawn.
        assert_eq!(run(&Hutchinson { relative_error: Some(0.0), ..plain.clone() }, &one)?.vectors(), 23);
        let numel = model.params.numel();
        for (count, is_fine) in [(0, false), (1, true), (numel - 1, true), (numel, false)] {
            assert_eq!(run(&Hutchinson { vectors: 2, ..basis(count) }, &one).is_ok(), is_fine, "{count}");
        }
        assert!(run(&Hutchinson { vectors: 1, ..plain.clone() }, &one).is_err());
        assert!(matches!(plain.traces(&[], &one), Err(Error::TooFewModels { .. })));
        Ok(())
    }

    #[test]
    fn an_error_by_too_few_vectors_stops_nothing() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Plain, 32)?;
        for seed in 0..20 {
            let settings = Hutchinson { seed, relative_error: Some(0.3), ..Hutchinson::default() };
            let estimate = &settings.traces(&[("", &model)], &data)?.estimates[0];
            assert!(estimate.vectors() > FREEDOM, "{} vectors of one batch", estimate.vectors());
        }
        Ok(())
    }

    #[test]
    fn vectors_are_drawn_until_the_relative_error_is_reached_and_no_longer() -> Result<()> {
        let (model, data, _) = explicit(Weighting::Parameters, 32)?;
        let settings = Hutchinson { vectors: 1000, relative_error: Some(0.1), ..Hutchinson::default() };
        let estimate = &settings.traces(&[("", &model)], &data)?.estimates[0];
        let (count, error) = (estimate.vectors(), estimate.standard_error() / estimate.mean());
        assert!(count < 1000 && (0.08..=0.1).contains(&error), "{error} after {count}");
        assert_eq!(estimate.products, count);
        Ok(())
    }
}
