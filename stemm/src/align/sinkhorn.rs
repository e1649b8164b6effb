//! Sinkhorn Re-Basin (Peña et al. 2023): permutations by gradient descent through soft ones.
//!
//! Every model but the first has a matrix `Z` of logits for each group; Sinkhorn's rounds turn `exp(Z / τ)` into a doubly stochastic
//! matrix, which maps the model's axes as a permutation would. AdamW lowers a loss of the mapped models; in the end each matrix
//! becomes the nearest permutation.

use std::path::PathBuf;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::matcher::Report;
use super::soft::{SoftMaps, Start, sinkhorn};
use super::{Aligner, Alignment, Found, Method, Mixing, Permutations, Record, assignment_of, checkpoint_of};
use crate::data::{Order, Splits};
use crate::error::{Error, Result};
use crate::evaluate::cross_entropy;
use crate::file::{self, Metadata, prefixed, reserved};
use crate::network::{Mode, Model, Network, Params, Pass, PermutationSpec, check_models};
use crate::progress::Progress;
use crate::rng::{Purpose, rng, step_seed};
use crate::train::{Optimiser, OptimiserState, check_learning_rate, positive, within};

/// What is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SinkhornLoss {
    /// The squared distance of each mapped model from the first; needs no data.
    Distance,
    /// The loss on a batch halfway between each mapped model and the first.
    Midpoint,
    /// The loss on a batch of one mixture of all models, uniform on the simplex: for two models, anywhere between them.
    Random,
}

/// Settings of Sinkhorn Re-Basin.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let models = Trainer { epochs: 2, batch_size: 64, ..Trainer::default() }.train(&network, &data, &[0, 1])?.models;
/// let alignment = Sinkhorn { steps: 20, ..Sinkhorn::default() }.align(&models, &data)?;
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sinkhorn {
    /// What is lowered.
    pub loss: SinkhornLoss,
    /// Steps of AdamW.
    pub steps: usize,
    /// Its step size.
    pub learning_rate: f64,
    /// What logits are divided by: the smaller, the closer the matrices are to permutations.
    pub temperature: f64,
    /// Samples a step, for the losses that need data.
    pub batch_size: usize,
    /// Where the matrices begin; the identity has half of each unit in its place.
    pub start: Start,
    /// Seed of the start, of the order of the samples and of the mixtures.
    pub seed: u64,
    /// Folder for a checkpoint, written now and then; an alignment that finds one of its own goes on from it.
    #[serde(skip)]
    pub checkpoints: Option<PathBuf>,
    /// Where progress is shown.
    #[serde(skip)]
    pub progress: Progress,
}

impl Default for Sinkhorn {
    fn default() -> Self {
        Sinkhorn {
            loss: SinkhornLoss::Distance,
            steps: 200,
            learning_rate: 0.1,
            temperature: 1.0,
            batch_size: 256,
            start: Start::Identity,
            seed: 0,
            checkpoints: None,
            progress: Progress::default(),
        }
    }
}

/// Steps between two checkpoints.
const KEPT_EVERY: usize = 20;

/// A unit that has more than this of its weight in one place has gone there: no rounding can give the place to another.
const DECIDED: f64 = 0.5;

/// AdamW's share of the logits that each step takes away, times the step size: PyTorch's default.
const WEIGHT_DECAY: f64 = 0.01;

impl Aligner for Sinkhorn {
    fn name(&self) -> &str {
        match self.loss {
            SinkhornLoss::Distance => "sinkhorn, distance",
            SinkhornLoss::Midpoint => "sinkhorn, midpoint",
            SinkhornLoss::Random => "sinkhorn, random",
        }
    }

    fn check(&self) -> Result<()> {
        within("steps", self.steps, 1)?;
        positive("batch_size", self.batch_size)?;
        check_learning_rate(self.learning_rate)?;
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            let (value, requirement) = (self.temperature.to_string(), "positive and finite, such as 1.0");
            return Err(Error::Setting { setting: "temperature", value, requirement });
        }
        Ok(())
    }

    fn align(&self, models: &[Model], data: &Splits) -> Result<Alignment> {
        check_models("Sinkhorn Re-Basin", models, 2)?;
        self.check()?;
        let network = &models[0].network;
        let needs_data = self.loss != SinkhornLoss::Distance;
        if needs_data {
            network.check_splits(data)?;
        }
        let begin = Instant::now();
        let spec = network.permutation_spec();
        // A network without hidden units has nothing to search for.
        if spec.groups().is_empty() {
            return Ok(Alignment { method: self.name().to_owned(), ..Alignment::naive(models)? });
        }
        let mut starts = rng(self.seed, Purpose::Landscape);
        let movers = models[1..].iter().map(|model| self.mover(&spec, model, &mut starts));
        let mut movers = movers.collect::<Result<Vec<_>>>()?;
        let mut mixing = rng(self.seed, Purpose::Mixing);
        let checkpoint = checkpoint_of(self.checkpoints.as_deref(), "sinkhorn", (self, "steps"), models, data)?;
        let (mut history, mut earlier) = (Vec::new(), 0.0);
        if let Some(checkpoint) = &checkpoint {
            checkpoint.load(models[0].params.device(), |mut stored| {
                history = stored.value::<Vec<Record>>("history")?;
                checkpoint.not_ahead(history.len(), "steps", self.steps)?;
                for (index, mover) in movers.iter_mut().enumerate() {
                    mover.logits = stored.params(&reserved(&format!("logits{index}")), &mover.logits)?.into_leaves()?;
                    let optimiser = OptimiserState::new(Optimiser::Adam, &mover.logits)?;
                    mover.optimiser = optimiser.resumed(&format!("model{index}_"), history.len(), &mut stored)?;
                }
                stored.resume("mixing", &mut mixing)?;
                earlier = stored.value("seconds")?;
                Ok(())
            })?;
        }
        let mut task = self.progress.task(format!("{}, {} models", self.name(), models.len()), self.steps);
        task.skip(history.len());
        let an_epoch = data.train.batch_count(self.batch_size);
        let mut batches = None;
        while history.len() < self.steps {
            let start = Instant::now();
            let batch = batches.as_mut().and_then(Iterator::next).transpose()?;
            if batch.is_none() && needs_data {
                let order = Order::Shuffled { seed: self.seed, epoch: history.len() / an_epoch };
                let whole = network.batches(&data.train, self.batch_size, order)?;
                batches = Some(whole.skip(history.len() % an_epoch));
                continue;
            }
            let step = history.len();
            let mapped = movers.iter().map(|mover| mover.mapped(&spec, self.temperature));
            let mapped = mapped.collect::<Result<Vec<_>>>()?;
            let loss = match &batch {
                None => distance(&models[0].params, &mapped)?,
                Some((x, y)) => {
                    let mode = Mode::Train { seed: step_seed(self.seed, step) };
                    let lambda = Mixing::Dirichlet.draw(models.len(), &mut mixing);
                    self.task_loss(network, (&models[0].params, &mapped), &lambda, (x, y), mode)?
                }
            };
            descend(&loss, &mut movers, self.learning_rate)?;
            let loss = loss.f_detach()?.f_double_value(&[])?;
            if !loss.is_finite() {
                let hint = "use a smaller `learning_rate` or a larger `temperature`";
                return Err(Error::NonFinite { tensor: format!("the loss of {} in step {step}", self.name()), hint });
            }
            task.step(|| format!("loss {loss:.4}"))?;
            history.push(Record {
                objective: Some(-loss).filter(|_| !needs_data),
                mixture_loss: Some(loss).filter(|_| needs_data),
                seconds: start.elapsed().as_secs_f64(),
                ..Record::sweep(step + 1, f64::NAN, &Report::default())
            });
            if let Some(checkpoint) = checkpoint.as_ref().filter(|_| history.len().is_multiple_of(KEPT_EVERY)) {
                let mut tensors = Vec::new();
                for (index, mover) in movers.iter().enumerate() {
                    tensors.extend(prefixed(&reserved(&format!("logits{index}")), &mover.logits));
                    tensors.extend(mover.optimiser.saved(&format!("model{index}_")));
                }
                let metadata = Metadata::from([
                    ("history".to_owned(), file::to_json(&history)),
                    ("mixing".to_owned(), file::place_of(&mixing)),
                    ("seconds".to_owned(), file::to_json(&(earlier + begin.elapsed().as_secs_f64()))),
                ]);
                checkpoint.save(&tensors, metadata)?;
            }
        }
        let (mut permutations, mut converged) = (vec![Permutations::identity(&spec)], true);
        for mover in &movers {
            let soft = mover.soft(self.temperature)?;
            permutations.push(Permutations(soft.0.iter().map(assignment_of).collect::<Result<_>>()?));
            for map in &soft.0 {
                converged &= map.f_amax([1i64].as_slice(), false)?.f_min()?.f_double_value(&[])? > DECIDED;
            }
        }
        let found = Found { permutations, history, converged }.alignment(self, begin)?;
        Ok(Alignment { seconds: earlier + found.seconds, ..found })
    }

    fn with(&self, seed: u64, progress: Progress) -> Method {
        Sinkhorn { seed, progress, ..self.clone() }.into()
    }
}

/// A model and the logits of its matrices.
struct Mover<'a> {
    params: &'a Params,
    logits: Params,
    optimiser: OptimiserState,
}

impl Mover<'_> {
    fn soft(&self, temperature: f64) -> Result<SoftMaps> {
        let maps = self.logits.tensors().iter();
        Ok(SoftMaps(maps.map(|z| sinkhorn(&z.f_div_scalar(temperature)?)).collect::<Result<_>>()?))
    }

    fn mapped(&self, spec: &PermutationSpec, temperature: f64) -> Result<Params> {
        self.soft(temperature)?.apply(spec, self.params)
    }
}

impl Sinkhorn {
    fn mover<'a>(&self, spec: &PermutationSpec, model: &'a Model, starts: &mut ChaCha8Rng) -> Result<Mover<'a>> {
        let options = (model.params.kind(), model.params.device());
        let maps = SoftMaps::start(spec, self.start, starts, options)?;
        // Logits of random matrices are their logarithms; those of the identity weigh the place of a unit as all others together.
        let logits = maps.0.iter().map(|map| match self.start {
            Start::Random => Ok(map.f_clamp_min(1e-9)?.f_log()?.f_mul_scalar(self.temperature)?),
            Start::Identity | Start::Barycentre => {
                let others = (map.size()[0] as f64 - 1.0).max(1.0);
                let diagonal = if self.start == Start::Identity { others.ln() * self.temperature } else { 0.0 };
                Ok(map.f_mul_scalar(diagonal)?)
            }
        });
        let named = spec.groups().iter().map(|group| group.name.clone()).zip(logits.collect::<Result<Vec<_>>>()?);
        let logits = Params::new(named, []).leaves()?;
        let optimiser = OptimiserState::new(Optimiser::Adam, &logits)?;
        Ok(Mover { params: &model.params, logits, optimiser })
    }

    /// Mean cross-entropy of a batch at the mixtures.
    fn task_loss(
        &self,
        network: &Network,
        (first, mapped): (&Params, &[Params]),
        lambda: &[f64],
        (x, y): (&Tensor, &Tensor),
        mode: Mode,
    ) -> Result<Tensor> {
        let at = |sets: &[&Params], weights: &[f64]| -> Result<Tensor> {
            let mixture =
                first.with(Params::weighted_sum(sets, weights)?.tensors().iter().map(Tensor::shallow_clone).collect());
            cross_entropy(&network.run(&mixture, x, &Pass::new(mode))?, y, 0.0)
        };
        if self.loss == SinkhornLoss::Random {
            let sets: Vec<&Params> = std::iter::once(first).chain(mapped).collect();
            return at(&sets, lambda);
        }
        let losses = mapped.iter().map(|own| at(&[first, own], &[0.5, 0.5])).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::f_stack(&losses, 0)?.f_mean(Kind::Float)?)
    }
}

/// `Σ |θ_0 - X_i θ_i|²`.
fn distance(first: &Params, mapped: &[Params]) -> Result<Tensor> {
    let squares = mapped.iter().flat_map(|own| first.tensors().iter().zip(own.tensors()));
    let squares = squares.map(|(a, b)| a.f_sub(b)?.f_square()?.f_sum(None)).collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&squares, 0)?.f_sum(None)?)
}

/// One step of AdamW on all logits.
fn descend(loss: &Tensor, movers: &mut [Mover], learning_rate: f64) -> Result<()> {
    let leaves: Vec<&Tensor> = movers.iter().flat_map(|mover| mover.logits.tensors()).collect();
    let groups = leaves.len() / movers.len();
    let gradients = Tensor::f_run_backward(&[loss], &leaves, false, false)?;
    let _guard = tch::no_grad_guard();
    for (mover, gradients) in movers.iter_mut().zip(gradients.chunks(groups)) {
        for logits in mover.logits.tensors() {
            let _ = logits.shallow_clone().f_mul_scalar_(1.0 - learning_rate * WEIGHT_DECAY)?;
        }
        mover.optimiser.step(&mover.logits, gradients, 1.0, learning_rate)?;
    }
    Ok(())
}
