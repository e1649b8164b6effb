//! Sharpness: the trace of the Hessian `H` of the mean loss, by Hutchinson's estimator.
//!
//! For random `v` with independent entries of mean 0, `E[vᵀ H v] = tr(H diag(E v²))`. Rademacher entries give the plain
//! trace `tr(H)`; Rademacher entries times `|θ|` give the weighted trace `tr(diag|θ| H diag|θ|)`, which rescaling the
//! layers of a ReLU network does not change (Ito et al. 2025). `H v` comes from double back-propagation.

use polars::prelude::DataFrame;
use rand::Rng;
use tch::Tensor;

use crate::chart::{Bars, Chart};
use crate::data::{Dataset, Order};
use crate::error::{Error, Result};
use crate::evaluate::{EVALUATION_BATCH, cross_entropy};
use crate::frame::{column, frame};
use crate::network::{Mode, Model, Params};
use crate::progress::{Progress, Task};
use crate::rng::{Purpose, rng};

/// Which trace is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// `tr(H)`.
    Plain,
    /// `tr(diag|θ| H diag|θ|)`: the paper's, invariant to the scale symmetry of ReLU networks.
    Parameters,
}

/// Settings of Hutchinson's estimator.
#[derive(Clone, Debug)]
pub struct Hutchinson {
    /// Random vectors; all batches see the same ones, so that the estimate is of one Hessian.
    pub vectors: usize,
    /// Which trace is estimated.
    pub weighting: Weighting,
    /// Seed of the vectors.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Hutchinson {
    fn default() -> Self {
        Hutchinson { vectors: 20, weighting: Weighting::Parameters, seed: 0, progress: Progress::default() }
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
    /// `vᵀ H v` for each random vector.
    pub samples: Vec<f64>,
}

impl TraceEstimate {
    /// The estimate.
    pub fn mean(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }

    /// Standard error of the estimate.
    pub fn standard_error(&self) -> f64 {
        let (n, mean) = (self.samples.len() as f64, self.mean());
        let squares: f64 = self.samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        (squares / (n - 1.0) / n).sqrt()
    }
}

/// Traces of several models.
#[derive(Clone, Debug)]
pub struct Traces {
    /// One estimate a model.
    pub estimates: Vec<TraceEstimate>,
}

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
        let steps = models.len() * data.batch_count(EVALUATION_BATCH);
        let mut task = self.progress.task("Hessian trace", steps);
        let estimates = models.iter().map(|(name, model)| {
            let samples = self.samples(model, data, &mut task)?;
            let (model, data, weighting) = ((*name).to_owned(), data.name().to_owned(), self.weighting);
            Ok(TraceEstimate { model, data, weighting, samples })
        });
        Ok(Traces { estimates: estimates.collect::<Result<_>>()? })
    }

    fn samples(&self, model: &Model, data: &Dataset, task: &mut Task) -> Result<Vec<f64>> {
        model.network.check_params(&model.params)?;
        let params = model.params.leaves()?;
        let vectors = self.draw(&model.params)?;
        let mut samples = vec![0.0; self.vectors];
        for batch in data.batches(EVALUATION_BATCH, Order::Sequential)? {
            let (x, y) = batch?;
            let weight = y.size()[0] as f64 / data.len() as f64;
            let loss = cross_entropy(&model.network.forward(&params, &x, Mode::Eval)?, &y, 0.0)?;
            let gradients = Tensor::f_run_backward(&[&loss], params.tensors(), true, true)?;
            for (sample, vector) in samples.iter_mut().zip(&vectors) {
                let product = dot(&gradients, vector.tensors())?;
                let hessian_vector = Tensor::f_run_backward(&[&product], params.tensors(), true, false)?;
                *sample += weight * dot(&hessian_vector, vector.tensors())?.f_double_value(&[])?;
            }
            task.step(String::new);
        }
        Ok(samples)
    }

    fn draw(&self, params: &Params) -> Result<Vec<Params>> {
        let mut rng = rng(self.seed, Purpose::Probe);
        let vectors = (0..self.vectors).map(|_| {
            params.without_buffers().map(|tensor| {
                let signs = signs(&mut rng, tensor)?;
                Ok(match self.weighting {
                    Weighting::Plain => signs,
                    Weighting::Parameters => signs.f_mul(&tensor.f_abs()?)?,
                })
            })
        });
        vectors.collect()
    }
}

/// Independent signs, +1 or -1, in the shape of a tensor and on its device.
fn signs(rng: &mut impl Rng, like: &Tensor) -> Result<Tensor> {
    let mut values = Vec::with_capacity(like.numel());
    while values.len() < like.numel() {
        let bits = rng.next_u64();
        let left = (like.numel() - values.len()).min(64);
        values.extend((0..left).map(|bit| if bits >> bit & 1 == 1 { 1f32 } else { -1.0 }));
    }
    Ok(Tensor::f_from_slice(&values)?
        .f_view(like.size().as_slice())?
        .f_to_kind(like.f_kind()?)?
        .f_to_device(like.device())?)
}

/// Inner product of two lists of tensors, as a tensor of the graph.
fn dot(a: &[Tensor], b: &[Tensor]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (a, b) in a.iter().zip(b) {
        let term = a.f_mul(b)?.f_sum(a.f_kind()?)?;
        sum = Some(match sum {
            None => term,
            Some(sum) => sum.f_add(&term)?,
        });
    }
    sum.ok_or(Error::Empty { what: "the set of parameters".into() })
}

impl Traces {
    /// One row a model: trace, standard error, number of vectors, data set.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.estimates;
        frame([
            column("model", rows.iter().map(|row| row.model.as_str())),
            column("data_set", rows.iter().map(|row| row.data.as_str())),
            column("weighting", rows.iter().map(|row| format!("{:?}", row.weighting).to_lowercase())),
            column("trace", rows.iter().map(TraceEstimate::mean)),
            column("standard_error", rows.iter().map(TraceEstimate::standard_error)),
            column("vectors", rows.iter().map(|row| row.samples.len() as u64)),
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

    /// Shows the table in the notebook.
    pub fn evcxr_display(&self) {
        crate::notebook::show_frame(&self.frame(), "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use tch::{Device, Kind};

    /// Oracle: every second derivative by one backward pass an entry, in f64.
    fn explicit_diagonal(model: &Model, data: &Dataset) -> Vec<f64> {
        let params = model.params.leaves().unwrap();
        let logits = model.network.forward(&params, data.images(), Mode::Eval).unwrap();
        let loss = cross_entropy(&logits, data.labels(), 0.0).unwrap();
        let gradients = Tensor::run_backward(&[&loss], params.tensors(), true, true);
        let mut diagonal = Vec::new();
        for (tensor, gradient) in params.tensors().iter().zip(&gradients) {
            let flat = gradient.view([-1]);
            for entry in 0..flat.size()[0] {
                let row = Tensor::run_backward(&[flat.get(entry)], &[tensor], true, false);
                diagonal.push(row[0].view([-1]).double_value(&[entry]));
            }
        }
        diagonal
    }

    #[test]
    fn both_traces_agree_with_the_explicit_hessian_of_a_small_network() -> Result<()> {
        let network = Network::mlp(&[16, 6, 4])?;
        let model = Model::new(network.clone(), network.init(3, Device::Cpu)?)?;
        let data = crate::data::blobs(0, Device::Cpu)?.test;
        let diagonal = explicit_diagonal(&model, &data);
        let squares: Vec<f64> = model
            .params
            .tensors()
            .iter()
            .flat_map(|tensor| {
                let flat = tensor.view([-1]).to_kind(Kind::Double);
                Vec::<f64>::try_from(flat.square()).unwrap()
            })
            .collect();
        let plain: f64 = diagonal.iter().sum();
        let weighted: f64 = diagonal.iter().zip(&squares).map(|(h, w)| h * w).sum();
        for (weighting, exact) in [(Weighting::Plain, plain), (Weighting::Parameters, weighted)] {
            let settings = Hutchinson { vectors: 400, weighting, ..Hutchinson::default() };
            let traces = settings.traces(&[("small", &model)], &data)?;
            let (mean, error) = (traces.estimates[0].mean(), traces.estimates[0].standard_error());
            assert!((mean - exact).abs() < 4.0 * error, "{weighting:?}: {mean} ± {error}, exact {exact}");
            assert!(
                error < 0.1 * exact.abs(),
                "{weighting:?}: the standard error {error} is too large to test {exact}"
            );
        }
        Ok(())
    }
}
