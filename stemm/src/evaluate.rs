//! Loss and accuracy: the mean cross-entropy in nats and the share of right answers, summed in f64 over batches.

use tch::{Kind, Tensor};

use crate::data::{Dataset, Order};
use crate::error::{Error, Result};
use crate::network::{Mode, Network, Params, Pass};

/// Samples a batch wherever no gradient is needed: large enough to keep two cores busy, small enough for the cache.
pub(crate) const EVALUATION_BATCH: usize = 1_000;

/// Loss (nats a sample) and accuracy of a network on a data set, in evaluation mode.
pub(crate) fn loss_and_accuracy(network: &Network, params: &Params, data: &Dataset) -> Result<(f64, f64)> {
    let _guard = tch::no_grad_guard();
    let mut tally = Tally::default();
    for batch in data.batches(EVALUATION_BATCH, Order::Sequential)? {
        let (x, y) = batch?;
        let logits = network.forward(params, &x, Mode::Eval)?;
        let loss = cross_entropy(&logits, &y, 0.0)?.f_double_value(&[])?;
        tally.add(loss, &logits, &y)?;
    }
    Ok((tally.mean_loss(), tally.accuracy()))
}

/// Loss and accuracy of an ensemble: the mean of the networks' probabilities.
pub(crate) fn ensemble_loss_and_accuracy(network: &Network, sets: &[&Params], data: &Dataset) -> Result<(f64, f64)> {
    let _guard = tch::no_grad_guard();
    let mut tally = Tally::default();
    for batch in data.batches(EVALUATION_BATCH, Order::Sequential)? {
        let (x, y) = batch?;
        let mut sum: Option<Tensor> = None;
        for params in sets {
            let probabilities = network.forward(params, &x, Mode::Eval)?.f_softmax(-1, Kind::Float)?;
            sum = Some(match sum {
                None => probabilities,
                Some(sum) => sum.f_add(&probabilities)?,
            });
        }
        let sum = sum.ok_or(Error::TooFewModels { operation: "an ensemble", found: 0, needed: 1 })?;
        let logarithms = sum.f_div_scalar(sets.len() as f64)?.f_log()?;
        let loss = logarithms.f_nll_loss::<Tensor>(&y, None, tch::Reduction::Mean, -100)?.f_double_value(&[])?;
        tally.add(loss, &logarithms, &y)?;
    }
    Ok((tally.mean_loss(), tally.accuracy()))
}

/// Running sums of loss and right answers over batches.
#[derive(Default)]
pub(crate) struct Tally {
    loss: f64,
    correct: f64,
    samples: usize,
}

impl Tally {
    /// Loss of a batch, and its gradients for the leaves `params`; an error if it is not finite.
    pub(crate) fn backward(
        &mut self,
        network: &Network,
        params: &Params,
        (x, y): (&Tensor, &Tensor),
        pass: &Pass,
        label_smoothing: f64,
    ) -> Result<(f64, Vec<Tensor>)> {
        let logits = network.run(params, x, pass)?;
        let loss = cross_entropy(&logits, y, label_smoothing)?;
        let gradients = Tensor::f_run_backward(&[&loss], params.tensors(), false, false)?;
        let loss = loss.f_double_value(&[])?;
        if !loss.is_finite() {
            return Err(Error::NonFinite { tensor: "the loss of a batch".into() });
        }
        self.add(loss, &logits, y)?;
        Ok((loss, gradients))
    }

    /// Adds a batch by its mean loss and logits.
    pub(crate) fn add(&mut self, mean_loss: f64, logits: &Tensor, y: &Tensor) -> Result<()> {
        let n = y.size()[0] as usize;
        let correct = logits.f_argmax(-1, false)?.f_eq_tensor(y)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
        self.loss += mean_loss * n as f64;
        self.correct += correct as f64;
        self.samples += n;
        Ok(())
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
