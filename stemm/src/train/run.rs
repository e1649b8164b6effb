//! A training as a value: it goes on where it was, after an interrupt or in a later cell.

use std::time::Instant;

use tch::{Kind, Tensor};

use super::checkpoint::State;
use super::course::{Course, Snapshot};
use super::{Choice, Epoch, History, OptimiserState, Trainer, Training};
use crate::data::{Order, Splits};
use crate::device::free_memory;
use crate::error::{Error, Result};
use crate::evaluate::{Tally, backward, beside, by_loss, losses_and_accuracies};
use crate::network::{MOMENTUM, Network, Params, Pass};
use crate::notebook::{Bundle, Show};
use crate::progress::{Progress, Task};
use crate::rng::step_seed;

/// A training on its way, made by [`Trainer::start`]. What it has done stays in it when it is interrupted, up to the last
/// whole epoch, with or without checkpoints.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let mut run = Trainer { epochs: 2, ..Trainer::default() }.start(&network, &data, &[0, 1])?;
/// let training = run.train()?; // in a notebook: interrupt it, and run the cell again
/// assert_eq!(training.models.len(), 2);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Debug)]
pub struct TrainingRun {
    trainer: Trainer,
    network: Network,
    data: Splits,
    /// Says which data these are; made only where checkpoints need it.
    digest: String,
    courses: Vec<Course>,
}

impl TrainingRun {
    /// One model a seed, each from its beginning if it has one.
    pub(super) fn new(
        trainer: &Trainer,
        network: &Network,
        data: &Splits,
        seeds: &[u64],
        origins: Vec<Option<Snapshot>>,
    ) -> Result<TrainingRun> {
        network.check_splits(data)?;
        let digest = trainer.checkpoints.as_ref().map(|_| data.training_digest()).transpose()?.unwrap_or_default();
        let numbered = seeds.iter().enumerate().zip(origins);
        let courses = numbered.map(|((model, &seed), origin)| Course::new(model, seed, origin)).collect();
        Ok(TrainingRun { trainer: trainer.clone(), network: network.clone(), data: data.clone(), digest, courses })
    }

    /// Trains on, until every model has its epochs; once that is so, gives the same result again.
    ///
    /// # Errors
    /// As [`Trainer::train`]; after an interrupt, call it again.
    pub fn train(&mut self) -> Result<Training> {
        let devices = match self.trainer.devices.as_slice() {
            [] => vec![self.data.train.device()],
            devices => devices.to_vec(),
        };
        // A device's share is always the same, so that what is interrupted goes on where it was.
        let shares = dealt(self.courses.iter_mut(), devices.len());
        let mut work = Vec::new();
        for (device, courses) in devices.into_iter().zip(shares) {
            work.push(Share {
                network: &self.network,
                data: self.data.to_device(device)?,
                digest: &self.digest,
                courses,
            });
        }
        // The first share shows its progress for all, which are equally large.
        let trainer = &self.trainer;
        let silent = Trainer { progress: Progress::Silent, ..trainer.clone() };
        std::thread::scope(|threads| {
            let mut work = work.into_iter();
            let first = work.next();
            let others: Vec<_> = work.map(|share| threads.spawn(|| share.train(&silent))).collect();
            let own = first.map_or(Ok(()), |share| share.train(trainer));
            others.into_iter().fold(own, |all, thread| all.and(thread.join().unwrap_or_else(|_| Err(lost_thread()))))
        })?;
        let device = self.data.train.device();
        let results = self.courses.iter().filter_map(|course| course.result.as_ref());
        Ok(Training {
            models: results.map(|model| model.to_device(device)).collect::<Result<_>>()?,
            history: self.history(),
        })
    }

    /// Losses and accuracies of the epochs that are done.
    pub fn history(&self) -> History {
        History { epochs: self.courses.iter().flat_map(|course| course.epochs.iter().cloned()).collect() }
    }
}

/// The models that one device trains, and the data there.
struct Share<'a> {
    network: &'a Network,
    data: Splits,
    digest: &'a str,
    courses: Vec<&'a mut Course>,
}

impl Share<'_> {
    fn train(mut self, trainer: &Trainer) -> Result<()> {
        let Share { network, data, digest, courses } = &mut self;
        let steps = data.train.batch_count(trainer.batch_size);
        let total = courses.len().saturating_mul(trainer.epochs).saturating_mul(steps);
        let several = if trainer.devices.len() > 1 { " on the first device" } else { "" };
        let mut task = trainer.progress.task(format!("training {} models{several}", courses.len()), total);
        let at_once = match trainer.at_once {
            Some(at_once) => at_once,
            None => match free_memory(data.train.device()) {
                Some(bytes) => network.most_models(trainer.batch_size.min(data.train.len()), bytes)?.max(1),
                None => 1,
            },
        };
        for courses in courses.chunks_mut(at_once) {
            for course in courses.iter_mut().filter(|course| course.result.is_none()) {
                course.start(trainer, network, data, digest)?;
            }
            let whole = trainer.epochs.saturating_mul(steps);
            let done = |course: &&mut Course| if course.result.is_some() { whole } else { course.steps().min(whole) };
            task.skip(courses.iter().map(done).fold(0, usize::saturating_add));
            trainer.train_to_end(network, data, courses, &mut task)?;
            courses.iter_mut().try_for_each(|course| course.finish(trainer, network))?;
        }
        task.finish();
        Ok(())
    }
}

/// Items dealt to so many hands in turn.
fn dealt<T>(items: impl Iterator<Item = T>, hands: usize) -> Vec<Vec<T>> {
    let mut dealt: Vec<Vec<T>> = (0..hands).map(|_| Vec::new()).collect();
    items.enumerate().for_each(|(index, item)| dealt[index % hands].push(item));
    dealt
}

fn lost_thread() -> Error {
    Error::Threads { reason: "the thread of a device ended early".into() }
}

impl Show for TrainingRun {
    fn look(&self) -> Bundle {
        let done: usize = self.courses.iter().map(|course| course.epochs.len()).sum();
        let remark = format!("{done} of {} epochs are done", self.courses.len().saturating_mul(self.trainer.epochs));
        Bundle::table(&self.history().frame(), &remark)
    }
}

impl Trainer {
    /// Trains models to their end, side by side wherever they are equally far.
    fn train_to_end(
        &self,
        network: &Network,
        data: &Splits,
        courses: &mut [&mut Course],
        task: &mut Task,
    ) -> Result<()> {
        loop {
            let unfinished = |course: &&mut Course| {
                course.state.is_some() && course.epochs.len() < self.epochs && !self.stopped_early(&course.epochs)
            };
            let mut courses: Vec<&mut Course> =
                courses.iter_mut().map(|course| &mut **course).filter(unfinished).collect();
            let Some(step) = courses.iter().map(|course| course.steps()).min() else { return Ok(()) };
            courses.retain(|course| course.steps() == step);
            self.epoch(network, data, &mut courses, usize::MAX, task)?;
        }
    }

    /// The epoch that models side by side are in, to its end or to step `until` of the training. Until then nothing of the
    /// models' states changes.
    pub(super) fn epoch(
        &self,
        network: &Network,
        data: &Splits,
        courses: &mut [&mut Course],
        until: usize,
        task: &mut Task,
    ) -> Result<()> {
        let start = Instant::now();
        let models = courses.len();
        let states: Vec<&State> = courses.iter().filter_map(|course| course.state.as_ref()).collect();
        let params: Vec<&Params> = states.iter().map(|state| &state.params).collect();
        let optimisers: Vec<&OptimiserState> = states.iter().map(|state| &state.optimiser).collect();
        let (params, mut optimiser) = (Params::stacked(&params)?.into_leaves()?, OptimiserState::stacked(&optimisers)?);
        let steps = data.train.batch_count(self.batch_size);
        let (epoch, first) = (optimiser.steps / steps, optimiser.steps % steps);
        let last = steps.min(until - epoch * steps);
        let shuffled = courses.iter().map(|course| Order::Shuffled { seed: course.seed, epoch });
        let batches = shuffled.map(|order| Ok(network.batches(&data.train, self.batch_size, order)?.skip(first)));
        let mut batches = batches.collect::<Result<Vec<_>>>()?;
        let mut tally = Tally::default();
        let mut learning_rate = 0.0;
        let mut norms = Tensor::f_zeros([models as i64], (Kind::Double, data.train.device()))?;
        for _ in first..last {
            let batch = batches.iter_mut().filter_map(Iterator::next).collect::<Result<Vec<_>>>()?;
            let (x, y) = beside(&batch)?;
            let step = optimiser.steps;
            let seeds = courses.iter().map(|course| step_seed(course.seed, step)).collect();
            let (momentum, precision) = (Some(MOMENTUM), self.precision.kind());
            let pass = Pass { momentum, precision, ..Pass::training(seeds) };
            let gradients = backward(&mut tally, network, &params, (&x, &y), &pass, self.label_smoothing)?;
            norms = norms.f_add(&self::norms(&gradients, models)?)?;
            learning_rate = self.learning_rate * self.schedule.factor(step, steps, self.epochs);
            optimiser.step(&params, &gradients, 1.0, learning_rate)?;
            for (index, course) in courses.iter().enumerate() {
                let loss = || tally.mean_loss(index);
                task.step(|| format!("model {}, epoch {}, loss {:.4}", course.model, epoch + 1, loss()))?;
            }
        }
        tally.check_finite()?;
        let held_out = match last == steps {
            true => losses_and_accuracies(network, &params, models, &data.held_out)?,
            false => Vec::new(),
        };
        let norms = Vec::<f64>::try_from(norms)?;
        // What belongs to each model goes back to it.
        let parts = params.unstacked(models)?.into_iter().zip(optimiser.unstacked(models)?);
        let seconds = start.elapsed().as_secs_f64() / models as f64;
        for (index, (course, (params, optimiser))) in courses.iter_mut().zip(parts).enumerate() {
            let params = params.into_leaves()?;
            let Some(&(held_out_loss, held_out_accuracy)) = held_out.get(index) else {
                let best = course.state.take().and_then(|state| state.best);
                course.state = Some(State { params, optimiser, best });
                continue;
            };
            let lowest = course.epochs.iter().map(|row| row.held_out_loss).fold(f64::INFINITY, f64::min);
            let best = match self.choice == Choice::BestEpoch && held_out_loss < lowest {
                true => Some(params.copied()?),
                false => course.state.take().and_then(|state| state.best),
            };
            course.epochs.push(Epoch {
                model: course.model,
                seed: course.seed,
                epoch: epoch + 1,
                train_loss: tally.mean_loss(index),
                train_accuracy: tally.accuracy(index),
                held_out_loss,
                held_out_accuracy,
                learning_rate,
                gradient_norm: norms[index] / (last - first) as f64,
                seconds,
            });
            let state = course.state.insert(State { params, optimiser, best });
            if let Some(checkpoint) = &course.checkpoint {
                checkpoint.save(state, &course.epochs)?;
            }
        }
        Ok(())
    }

    fn stopped_early(&self, epochs: &[Epoch]) -> bool {
        let best = epochs.iter().enumerate().min_by(|a, b| by_loss(a.1.held_out_loss, b.1.held_out_loss));
        match (self.patience, best) {
            (Some(patience), Some((best, _))) => epochs.len() - 1 - best >= patience,
            _ => false,
        }
    }
}

/// Euclidean norm of each model's gradients over all tensors, left on their device: reading it each step would stall a
/// GPU.
fn norms(gradients: &[Tensor], models: usize) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let norms = gradients
        .iter()
        .map(|gradient| Ok(gradient.f_reshape([models as i64, -1])?.f_norm_scalaropt_dim(2, [1i64], false)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Tensor::f_stack(&norms, 0)?.f_norm_scalaropt_dim(2, [0i64], false)?.f_to_kind(Kind::Double)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Model;
    use tch::Device;

    #[test]
    fn items_are_dealt_in_turn() {
        assert_eq!(dealt(0..5, 3), [vec![0, 3], vec![1, 4], vec![2]]);
        assert_eq!(dealt(0..1, 2), [vec![0], vec![]]);
    }

    #[test]
    fn patience_counts_the_epochs_since_the_best() {
        let epoch = |held_out_loss| Epoch {
            model: 0,
            seed: 0,
            epoch: 0,
            train_loss: 0.0,
            train_accuracy: 0.0,
            held_out_loss,
            held_out_accuracy: 0.0,
            learning_rate: 0.0,
            gradient_norm: 0.0,
            seconds: 0.0,
        };
        let stopped = |patience, losses: &[f64]| {
            let epochs: Vec<Epoch> = losses.iter().copied().map(epoch).collect();
            Trainer { patience, ..Trainer::default() }.stopped_early(&epochs)
        };
        let losses = [3.0, 2.0, 1.0, 1.5, f64::NAN];
        assert!(!stopped(Some(2), &losses[..4]) && stopped(Some(2), &losses) && !stopped(Some(3), &losses));
        assert!(!stopped(None, &losses) && !stopped(Some(1), &[]));
    }

    #[test]
    fn models_side_by_side_share_the_time_that_passed() {
        let data = crate::data::blobs(0, Device::Cpu).unwrap();
        let start = std::time::Instant::now();
        let training = Trainer { epochs: 3, batch_size: 64, at_once: Some(4), ..Trainer::default() }
            .train(&Network::mlp(&[16, 24, 4]).unwrap(), &data, &[0, 1, 2, 3])
            .unwrap();
        let (all, shares) = (start.elapsed().as_secs_f64(), (0..4).map(|model| training.seconds(model)).sum::<f64>());
        assert!(shares > 0.0 && shares <= all, "{shares} of {all}");
    }

    #[test]
    fn seeds_spread_over_devices_give_the_models_of_one_device_in_their_order() {
        let data = crate::data::blobs(0, Device::Cpu).unwrap();
        let network = || Network::mlp(&[16, 24, 24, 4]).unwrap();
        let trainer = |epochs| Trainer { epochs, batch_size: 64, ..Trainer::default() };
        let equal_bits = |a: &Model, b: &Model| a.params.iter().zip(b.params.iter()).all(|((_, x), (_, y))| x == y);
        let seeds = [5, 6, 7, 8, 9];
        let spread = Trainer { devices: vec![Device::Cpu; 3], ..trainer(2) };
        let (one, several) =
            (trainer(2).train(&network(), &data, &seeds).unwrap(), spread.train(&network(), &data, &seeds).unwrap());
        assert_eq!(several.models.len(), 5);
        assert!(one.models.iter().zip(&several.models).all(|(a, b)| equal_bits(a, b)));
        let order =
            |training: &Training| training.history.epochs.iter().map(|row| (row.seed, row.epoch)).collect::<Vec<_>>();
        assert_eq!(order(&one), order(&several));
        // An error on any one of them.
        for bad in &seeds[..3] {
            let folder = std::env::temp_dir().join(format!("stemm-spread-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("seed{bad}.safetensors")), "no checkpoint").unwrap();
            let broken = Trainer { checkpoints: Some(folder.clone()), ..spread.clone() };
            assert!(matches!(broken.train(&network(), &data, &seeds), Err(Error::Corrupt { .. })), "{bad}");
            std::fs::remove_dir_all(&folder).unwrap();
        }
        // More devices than seeds.
        let idle = Trainer { devices: vec![Device::Cpu; 3], ..trainer(1) };
        assert_eq!(idle.train(&network(), &data, &[1, 2]).unwrap().models.len(), 2);
        let too_fast = Trainer { learning_rate: 1e38, ..spread };
        assert!(matches!(too_fast.train(&network(), &data, &seeds), Err(Error::NonFinite { .. })));
    }
}
