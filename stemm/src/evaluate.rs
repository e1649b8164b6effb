//! Loss and accuracy: the mean cross-entropy in nats and the share of right answers, summed in f64 over batches.

use std::cmp::Ordering;

use polars::prelude::DataFrame;
use tch::{Device, Kind, Tensor};

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::network::{Memory, Mode, Model, Network, Params, Pass};
use crate::notebook::{Bundle, Show};

/// How good a model is on a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Name of the data set.
    pub data: String,
    /// Samples it has.
    pub samples: usize,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
}

impl Model {
    /// Loss and accuracy on a data set, in evaluation mode.
    ///
    /// # Errors
    /// Data that do not fit the network, NaN weights.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let data = blobs(0, Device::Cpu)?;
    /// let network = Network::mlp(&[16, 8, 4])?;
    /// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
    /// assert!(model.evaluate(&data.test)?.accuracy <= 1.0);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn evaluate(&self, data: &Dataset) -> Result<Evaluation> {
        self.network.check_params(&self.params)?;
        let (loss, accuracy) = loss_and_accuracy(&self.network, &self.params, data)?;
        Ok(Evaluation { data: data.name().to_owned(), samples: data.len(), loss, accuracy })
    }
}

impl Evaluation {
    /// One row: data set, samples, loss, accuracy.
    pub fn frame(&self) -> DataFrame {
        frame([
            column("data_set", [self.data.as_str()]),
            column("samples", [self.samples as u64]),
            column("loss_nats", [self.loss]),
            column("accuracy", [self.accuracy]),
        ])
    }
}

impl Show for Evaluation {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), "")
    }
}

/// Loss (nats a sample) and accuracy of a network on a data set, in evaluation mode.
pub(crate) fn loss_and_accuracy(network: &Network, params: &Params, data: &Dataset) -> Result<(f64, f64)> {
    Ok(losses_and_accuracies(network, params, 1, data)?[0])
}

/// The same of `models` side by side ([`Params::stacked`]); one pair a model.
pub(crate) fn losses_and_accuracies(
    network: &Network,
    params: &Params,
    models: usize,
    data: &Dataset,
) -> Result<Vec<(f64, f64)>> {
    let _guard = tch::no_grad_guard();
    let mut tally = Tally::default();
    let pass = Pass { models: models as i64, ..Pass::new(Mode::Eval) };
    // Each model has a copy of the samples beside it, and outputs of its own.
    let largest = (network.most_samples(Memory::Forward)? / models).max(1);
    for batch in network.chunks(data, Memory::Forward, largest)? {
        let (x, y) = batch?;
        let copies = (0..models).map(|_| (x.shallow_clone(), y.shallow_clone()));
        let (x, y) = beside(&copies.collect::<Vec<_>>())?;
        let logits = network.run(params, &x, &pass)?;
        tally.add(&losses(&logits, &y, models, 0.0)?, &logits, &y)?;
    }
    Ok((0..models).map(|model| (tally.mean_loss(model), tally.accuracy(model))).collect())
}

/// Batches for models side by side: `x: [batch, models * values]`, `y: [batch, models]`; a single one stays as it is.
pub(crate) fn beside(batches: &[(Tensor, Tensor)]) -> Result<(Tensor, Tensor)> {
    if let [(x, y)] = batches {
        return Ok((x.shallow_clone(), y.shallow_clone()));
    }
    let x = batches.iter().map(|(x, _)| Ok(x.f_flatten(1, -1)?)).collect::<Result<Vec<_>>>()?;
    let y: Vec<&Tensor> = batches.iter().map(|(_, y)| y).collect();
    Ok((Tensor::f_cat(&x, 1)?, Tensor::f_stack(&y, 1)?))
}

/// Loss and accuracy of an ensemble: the mean of the networks' probabilities.
pub(crate) fn ensemble_loss_and_accuracy(network: &Network, sets: &[&Params], data: &Dataset) -> Result<(f64, f64)> {
    let _guard = tch::no_grad_guard();
    let mut tally = Tally::default();
    for batch in network.chunks(data, Memory::Forward, usize::MAX)? {
        let (x, y) = batch?;
        let each =
            sets.iter().map(|params| Ok(network.forward(params, &x, Mode::Eval)?.f_log_softmax(-1, Kind::Double)?));
        let each = each.collect::<Result<Vec<Tensor>>>()?;
        // log (Σ p_i / n) from logarithms: probabilities themselves vanish where a network is sure.
        let together = Tensor::f_stack(&each, 0)?.f_logsumexp([0i64].as_slice(), false)?;
        let together = together.f_sub_scalar((sets.len() as f64).ln())?;
        let loss = together.f_nll_loss::<Tensor>(&y, None, tch::Reduction::Mean, -100)?;
        tally.add(&loss.f_view([1])?, &together, &y)?;
    }
    Ok((tally.mean_loss(0), tally.accuracy(0)))
}

/// Orders losses, NaN above all others: what could not be measured is never the best.
pub(crate) fn by_loss(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then(a.partial_cmp(&b).unwrap_or(Ordering::Equal))
}

/// The highest loss, NaN if there is one; minus infinity of none.
pub(crate) fn highest(losses: impl Iterator<Item = f64>) -> f64 {
    losses.max_by(|&a, &b| by_loss(a, b)).unwrap_or(f64::NEG_INFINITY)
}

/// Running sums of loss and right answers over batches, of models side by side. They stay on their device until somebody
/// asks: to read them at each step would stall a GPU.
#[derive(Default)]
pub(crate) struct Tally {
    /// Sums over the samples so far, `[models]` each, in f64.
    sums: Option<Sums>,
    samples: i64,
    batches: usize,
}

struct Sums {
    loss: Tensor,
    correct: Tensor,
}

/// On a GPU so many batches pass before anybody looks whether the loss is still finite.
const LOOKED_AT_EVERY: usize = 16;

/// Loss of a batch for each of the models side by side, and the gradients for the leaves `params`; an error if a loss is
/// not finite, on a GPU at the latest after some more batches. The sums of the tally go up by the batch.
pub(crate) fn backward(
    tally: &mut Tally,
    network: &Network,
    params: &Params,
    (x, y): (&Tensor, &Tensor),
    pass: &Pass,
    label_smoothing: f64,
) -> Result<Vec<Tensor>> {
    if params.tensors().is_empty() {
        return Err(Error::Empty { what: "the set of parameters".into() });
    }
    let logits = network.run(params, x, pass)?;
    let losses = losses(&logits, y, pass.models as usize, label_smoothing)?;
    // A model's parameters move its own loss only: the gradient of the sum is each one's gradient.
    let gradients = Tensor::f_run_backward(&[&losses.f_sum(None)?], params.tensors(), false, false)?;
    tally.add(&losses.f_detach()?, &logits.f_detach()?, y)?;
    if losses.device() == Device::Cpu || tally.batches.is_multiple_of(LOOKED_AT_EVERY) {
        tally.check_finite()?;
    }
    Ok(gradients)
}

/// Mean cross-entropy of each model's logits in `[batch, models * classes]`: `[models]`.
fn losses(logits: &Tensor, y: &Tensor, models: usize, label_smoothing: f64) -> Result<Tensor> {
    if models == 1 {
        return Ok(cross_entropy(logits, y, label_smoothing)?.f_view([1])?);
    }
    let models = models as i64;
    let logits = logits.f_reshape([-1, logits.size()[1] / models])?;
    let y = y.f_reshape([-1])?;
    let each = logits.f_cross_entropy_loss::<Tensor>(&y, None, tch::Reduction::None, -100, label_smoothing)?;
    Ok(each.f_view([-1, models])?.f_mean_dim([0i64].as_slice(), false, each.kind())?)
}

impl Tally {
    /// Adds a batch by the models' mean losses, `[models]`, and logits, `[samples, models * classes]`.
    fn add(&mut self, losses: &Tensor, logits: &Tensor, y: &Tensor) -> Result<()> {
        let (samples, models) = (y.size()[0], losses.size()[0]);
        let losses = losses.f_to_kind(Kind::Double)?;
        let answers = logits.f_reshape([samples, models, -1])?.f_argmax(-1, false)?;
        let right = answers.f_eq_tensor(&y.f_view([samples, models])?)?;
        let right = right.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?;
        // What answers NaN has not answered, though the largest of its outputs has a place.
        let right = losses.f_where_self(&losses.f_isnan()?, &right)?;
        let losses = losses.f_mul_scalar(samples)?;
        self.sums = Some(match &self.sums {
            None => Sums { loss: losses, correct: right },
            Some(sums) => Sums { loss: sums.loss.f_add(&losses)?, correct: sums.correct.f_add(&right)? },
        });
        self.samples += samples;
        self.batches += 1;
        Ok(())
    }

    /// An error if a loss so far was not finite.
    pub(crate) fn check_finite(&self) -> Result<()> {
        match &self.sums {
            Some(sums) if !crate::data::all_finite(&sums.loss)? => {
                Err(Error::NonFinite { tensor: "the loss of a batch".into(), hint: crate::error::RETRAIN })
            }
            _ => Ok(()),
        }
    }

    /// A model's mean loss a sample, in nats; NaN if there was none.
    pub(crate) fn mean_loss(&self, model: usize) -> f64 {
        self.mean(|sums| &sums.loss, model)
    }

    /// A model's share of right answers.
    pub(crate) fn accuracy(&self, model: usize) -> f64 {
        self.mean(|sums| &sums.correct, model)
    }

    fn mean(&self, sum: fn(&Sums) -> &Tensor, model: usize) -> f64 {
        let sum = self.sums.as_ref().and_then(|sums| sum(sums).f_double_value(&[model as i64]).ok());
        sum.unwrap_or(f64::NAN) / self.samples as f64
    }
}

/// Mean cross-entropy in nats of logits `[n, classes]` and labels `[n]`; a share `smoothing` of each label is spread
/// over all classes.
pub(crate) fn cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor> {
    Ok(logits.f_cross_entropy_loss::<Tensor>(labels, None, tch::Reduction::Mean, -100, smoothing)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_is_not_finite_is_found_however_late_it_is_looked_for() -> Result<()> {
        let (logits, y) =
            (Tensor::zeros([4, 6], (Kind::Float, Device::Cpu)), Tensor::zeros([4, 2], (Kind::Int64, Device::Cpu)));
        for bad in [f32::NAN, f32::INFINITY] {
            let mut tally = Tally::default();
            tally.add(&Tensor::from_slice(&[1.0f32, 3.0]), &logits, &y)?;
            tally.check_finite()?;
            assert_eq!((tally.mean_loss(1), tally.accuracy(1)), (3.0, 1.0));
            tally.add(&Tensor::from_slice(&[1.0, bad]), &logits, &y)?;
            tally.add(&Tensor::from_slice(&[1.0f32, 3.0]), &logits, &y)?;
            assert!(matches!(tally.check_finite(), Err(Error::NonFinite { .. })));
            assert_eq!((tally.mean_loss(0), tally.accuracy(0)), (1.0, 1.0));
            assert_eq!(tally.accuracy(1).is_nan(), bad.is_nan()); // what answers NaN has not answered
        }
        Ok(())
    }

    #[test]
    fn losses_side_by_side_are_those_one_by_one_for_more_classes_than_a_hundred() -> Result<()> {
        let (samples, classes) = (7, 102);
        let logits = Tensor::randn([samples, 2 * classes], (Kind::Double, Device::Cpu));
        let y = Tensor::arange(2 * samples, (Kind::Int64, Device::Cpu)).view([samples, 2]) + 88;
        for smoothing in [0.0, 0.1] {
            let together = losses(&logits, &y, 2, smoothing)?;
            for model in 0..2 {
                let logs = logits.narrow(1, model * classes, classes).log_softmax(-1, Kind::Double);
                let picked = logs.gather(1, &y.narrow(1, model, 1), false).mean(Kind::Double);
                let expected = -(picked * (1.0 - smoothing) + logs.mean(Kind::Double) * smoothing);
                let error = together.double_value(&[model]) - expected.double_value(&[]);
                assert!(error.abs() < 1e-12, "model {model}: {error}");
            }
        }
        Ok(())
    }
}
