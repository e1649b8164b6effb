//! Loss and accuracy: the mean cross-entropy in nats and the share of right answers, summed in f64 over batches.

use std::cmp::Ordering;

use polars::prelude::DataFrame;
use tch::{Kind, Tensor};

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
    let mut tallies = Tally::each(models);
    let pass = Pass { models: models as i64, ..Pass::new(Mode::Eval) };
    for batch in network.chunks(data, Memory::Forward, usize::MAX)? {
        let (x, y) = batch?;
        let copies = (0..models).map(|_| (x.shallow_clone(), y.shallow_clone()));
        let (x, y) = beside(&copies.collect::<Vec<_>>())?;
        let logits = network.run(params, &x, &pass)?;
        let losses = Vec::<f64>::try_from(losses(&logits, &y, models, 0.0)?.f_to_kind(Kind::Double)?)?;
        add_batch(&mut tallies, &losses, &logits, &y)?;
    }
    Ok(tallies.iter().map(|tally| (tally.mean_loss(), tally.accuracy())).collect())
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
    let mut tallies = Tally::each(1);
    for batch in network.chunks(data, Memory::Forward, usize::MAX)? {
        let (x, y) = batch?;
        let each =
            sets.iter().map(|params| Ok(network.forward(params, &x, Mode::Eval)?.f_log_softmax(-1, Kind::Double)?));
        let each = each.collect::<Result<Vec<Tensor>>>()?;
        // log (Σ p_i / n) from logarithms: probabilities themselves vanish where a network is sure.
        let together = Tensor::f_stack(&each, 0)?.f_logsumexp([0i64].as_slice(), false)?;
        let together = together.f_sub_scalar((sets.len() as f64).ln())?;
        let loss = together.f_nll_loss::<Tensor>(&y, None, tch::Reduction::Mean, -100)?.f_double_value(&[])?;
        add_batch(&mut tallies, &[loss], &together, &y)?;
    }
    Ok((tallies[0].mean_loss(), tallies[0].accuracy()))
}

/// Orders losses, NaN above all others: what could not be measured is never the best.
pub(crate) fn by_loss(a: f64, b: f64) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then(a.partial_cmp(&b).unwrap_or(Ordering::Equal))
}

/// The highest loss, NaN if there is one; minus infinity of none.
pub(crate) fn highest(losses: impl Iterator<Item = f64>) -> f64 {
    losses.max_by(|&a, &b| by_loss(a, b)).unwrap_or(f64::NEG_INFINITY)
}

/// Running sums of loss and right answers over batches.
#[derive(Clone, Default)]
pub(crate) struct Tally {
    loss: f64,
    correct: f64,
    samples: usize,
}

/// Loss of a batch for each of the models side by side, and the gradients for the leaves `params`; an error if a loss is
/// not finite. The sums of the models' tallies go up by the batch.
pub(crate) fn backward(
    tallies: &mut [Tally],
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
    let losses = losses(&logits, y, tallies.len(), label_smoothing)?;
    // A model's parameters move its own loss only: the gradient of the sum is each one's gradient.
    let gradients = Tensor::f_run_backward(&[&losses.f_sum(None)?], params.tensors(), false, false)?;
    let losses = Vec::<f64>::try_from(losses.f_detach()?.f_to_kind(Kind::Double)?)?;
    if !losses.iter().all(|loss| loss.is_finite()) {
        return Err(Error::NonFinite { tensor: "the loss of a batch".into(), hint: crate::error::RETRAIN });
    }
    add_batch(tallies, &losses, &logits, y)?;
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

/// Adds a batch to the tally of each model by its mean losses and logits.
fn add_batch(tallies: &mut [Tally], losses: &[f64], logits: &Tensor, y: &Tensor) -> Result<()> {
    let (samples, models) = (y.size()[0], tallies.len() as i64);
    let answers = logits.f_reshape([samples, models, -1])?.f_argmax(-1, false)?;
    let right = answers.f_eq_tensor(&y.f_view([samples, models])?)?;
    let right = Vec::<f64>::try_from(right.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?)?;
    for ((tally, loss), right) in tallies.iter_mut().zip(losses).zip(right) {
        tally.loss += loss * samples as f64;
        // What answers NaN has not answered, though the largest of its outputs has a place.
        tally.correct += if loss.is_nan() { f64::NAN } else { right };
        tally.samples += samples as usize;
    }
    Ok(())
}

impl Tally {
    /// An empty one for each of so many models.
    pub(crate) fn each(models: usize) -> Vec<Tally> {
        vec![Tally::default(); models]
    }

    /// Mean loss a sample, in nats.
    pub(crate) fn mean_loss(&self) -> f64 {
        self.loss / self.samples.max(1) as f64
    }

    /// Share of right answers.
    pub(crate) fn accuracy(&self) -> f64 {
        self.correct / self.samples.max(1) as f64
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
    use tch::Device;

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
