//! Curve connectivity (Garipov et al. 2018): a quadratic Bezier curve between two models along which the loss is low, to
//! set beside the straight line. `φ(t) = (1-t)² θ_a + 2 t (1-t) θ_c + t² θ_b`; only the control point `θ_c` is trained, on
//! the loss at random `t`.

use std::path::PathBuf;

use rand::RngExt;
use serde::Serialize;

use super::{Barriers, Curve, Point, evenly_spaced};
use crate::data::{Order, Part, Splits};
use crate::error::{Error, Result};
use crate::evaluate::{Tally, backward, loss_and_accuracy};
use crate::file::{Checkpoint, Metadata, digest_of, place_of, prefixed, reserved, to_json};
use crate::merge::{Mixer, REPAIR_SAMPLES, Repair};
use crate::network::{Mode, Model, Params, Pass, check_models};
use crate::progress::Progress;
use crate::rng::{Purpose, rng, step_seed};
use crate::train::{Optimiser, OptimiserState, check_learning_rate, positive, within};

/// Settings of the curve.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let training = Trainer { epochs: 2, ..Trainer::default() }.train(&network, &data, &[0, 1])?;
/// let curve = Bezier { epochs: 1, points: 5, ..Bezier::default() }.fit("curve", &training.models, &data)?;
/// assert_eq!(curve.curves[0].points.len(), 5);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Bezier {
    /// Passes over the training data.
    pub epochs: usize,
    /// Samples a step.
    pub batch_size: usize,
    /// Adam's step size.
    pub learning_rate: f64,
    /// Evenly spaced places on the curve at which it is evaluated, ends included.
    pub points: usize,
    /// The data on which loss and accuracy are taken.
    pub part: Part,
    /// How the statistics of the networks on the curve are set right, the ends' as all others, with the training data.
    pub repair: Repair,
    /// Samples of the training data that set statistics right, at most: drawn at random, the same ones at every place. The
    /// cost is a pass over them at each place (`Repair::Variance`: one for each layer).
    pub repair_samples: usize,
    /// Seed of the places, of the order of samples and of the samples for repair.
    pub seed: u64,
    /// Folder for a checkpoint, written after each epoch; a curve that finds one of its own goes on from it.
    pub checkpoints: Option<PathBuf>,
    /// Where progress is shown.
    pub progress: Progress,
}

/// What must be the same for a checkpoint to be continued.
#[derive(Serialize)]
struct Recipe {
    batch_size: usize,
    learning_rate: f64,
    seed: u64,
    models: String,
    data: String,
}

impl Default for Bezier {
    fn default() -> Self {
        Bezier {
            epochs: 5,
            batch_size: 256,
            learning_rate: 1e-3,
            points: 25,
            part: Part::default(),
            repair: Repair::default(),
            repair_samples: REPAIR_SAMPLES,
            seed: 0,
            checkpoints: None,
            progress: Progress::default(),
        }
    }
}

impl Bezier {
    /// Trains the control point, from the midpoint of the line on, and walks the curve; the result charts beside lines.
    ///
    /// # Errors
    /// Another number of models than two, models of different networks, settings out of range, a loss that diverges.
    pub fn fit(&self, label: &str, models: &[Model], data: &Splits) -> Result<Barriers> {
        check_models("a curve", models, 2)?;
        within("epochs", self.epochs, 1)?;
        positive("batch_size", self.batch_size)?;
        check_learning_rate(self.learning_rate)?;
        models[0].network.check_splits(data)?;
        let [first, last] = models else {
            let requirement = "exactly two: a curve has two ends";
            return Err(Error::Setting { setting: "models", value: models.len().to_string(), requirement });
        };
        within("points", self.points, 2)?;
        positive("repair_samples", self.repair_samples)?;
        let network = &first.network;
        let control = mixture(&[&first.params, &last.params], &[0.5, 0.5])?;
        let mut optimiser = OptimiserState::new(Optimiser::Adam, &control)?;
        let mut rng = rng(self.seed, Purpose::Curve);
        let an_epoch = data.train.batch_count(self.batch_size);
        let checkpoint = self.checkpoints.as_ref().map(|folder| -> Result<Checkpoint> {
            let Bezier { batch_size, learning_rate, seed, .. } = *self;
            let ends = digest_of(first.params.all().chain(last.params.all()))?;
            let data = data.training_digest()?;
            Ok(Checkpoint::new(folder, "curve", &Recipe { batch_size, learning_rate, seed, models: ends, data }))
        });
        let checkpoint = checkpoint.transpose()?;
        let (mut control, mut step) = (control, 0);
        if let Some(checkpoint) = &checkpoint {
            let resumed = checkpoint.load(control.device(), |mut stored| {
                let step = stored.value("steps")?;
                checkpoint.not_ahead(step / an_epoch, "epochs", self.epochs)?;
                stored.resume("places", &mut rng)?;
                Ok((step, stored.params(&reserved("control"), &control)?, optimiser.resumed("", step, &mut stored)?))
            })?;
            if let Some(resumed) = resumed {
                (step, control, optimiser) = resumed;
            }
        }
        let mut task = self.progress.task(format!("curve {label}"), self.epochs.saturating_mul(an_epoch));
        task.skip(step);
        let diverged = |error: Error| error.diverged("use a smaller `learning_rate` of the curve");
        for epoch in step / an_epoch..self.epochs {
            let mut tally = Tally::default();
            for batch in network.batches(&data.train, self.batch_size, Order::Shuffled { seed: self.seed, epoch })? {
                let (x, y) = batch?;
                let [a, c, b] = weights(rng.random());
                let place =
                    Params::weighted_sum(&[&first.params, &control, &last.params], &[a, c, b])?.into_leaves()?;
                let pass = Pass::new(Mode::Train { seed: step_seed(self.seed, step) });
                let gradients = backward(&mut tally, network, &place, (&x, &y), &pass, 0.0).map_err(diverged)?;
                // dφ/dθ_c = 2 t (1-t)
                optimiser.step(&control, &gradients, c, self.learning_rate)?;
                step += 1;
                task.step(|| format!("epoch {}, loss on the curve {:.4}", epoch + 1, tally.mean_loss(0)))?;
            }
            tally.check_finite().map_err(diverged)?;
            if let Some(checkpoint) = &checkpoint {
                let mut tensors = prefixed(&reserved("control"), &control);
                tensors.extend(optimiser.saved(""));
                let metadata =
                    Metadata::from([("steps".to_owned(), to_json(&step)), ("places".to_owned(), place_of(&rng))]);
                checkpoint.save(&tensors, metadata)?;
            }
        }
        let control = Model { network: network.clone(), params: control };
        let sets = [first.clone(), control, last.clone()];
        let samples = (data, self.repair_samples, self.seed);
        let mixer = Mixer::for_walk("a curve", (&sets, 3), self.repair, samples)?;
        let points = evenly_spaced(0.0, 1.0, self.points).map(|t| {
            let model = mixer.at(&weights(t))?;
            let (loss, accuracy) = loss_and_accuracy(network, &model.params, data.part(self.part))?;
            Ok(Point { t, loss, accuracy })
        });
        let curve = Curve { from: 0, to: 1, points: points.collect::<Result<_>>()? };
        let (data, repair) = (data.part(self.part).name().to_owned(), self.repair.done_to(network));
        Ok(Barriers { label: label.to_owned(), data, repair, models: 2, curves: vec![curve] })
    }
}

/// A weighted sum outside any graph.
fn mixture(sets: &[&Params], weights: &[f64]) -> Result<Params> {
    let _guard = tch::no_grad_guard();
    Params::weighted_sum(sets, weights)
}

/// Weights of the first end, the control point and the last end at `t`.
fn weights(t: f64) -> [f64; 3] {
    [(1.0 - t).powi(2), 2.0 * t * (1.0 - t), t * t]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Interpolation;
    use crate::data::blobs;
    use crate::network::{Dropout, Layer, Linear, Network, Relu};
    use crate::train::Trainer;
    use tch::Device;

    #[test]
    fn the_control_point_goes_where_autograd_through_the_curve_takes_it() -> Result<()> {
        let data = blobs(0, Device::Cpu)?;
        let layers: [(&str, Layer); 4] = [
            ("layer1", Linear::new(16, 8).into()),
            ("relu", Relu.into()),
            ("dropout", Dropout::new(0.2).into()), // other units in each step
            ("layer2", Linear::new(8, 4).into()),
        ];
        let network = Network::new([16], layers)?;
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
        let models = [model(0)?, model(1)?];
        let settings = Bezier { epochs: 6, batch_size: 256, points: 5, learning_rate: 0.05, ..Bezier::default() };
        let found = settings.fit("curve", &models, &data)?.curves.remove(0);
        let control = mixture(&[&models[0].params, &models[1].params], &[0.5, 0.5])?.leaves()?;
        let mut optimiser = OptimiserState::new(Optimiser::Adam, &control)?;
        let mut rng = rng(0, Purpose::Curve);
        let curve = |[a, c, b]: [f64; 3]| {
            let ends = models[0].params.tensors().iter().zip(models[1].params.tensors());
            let tensors =
                ends.zip(control.tensors()).map(|((first, last), control)| first * a + control * c + last * b);
            models[0].params.with(tensors.collect())
        };
        let batches =
            (0..settings.epochs).map(|epoch| network.batches(&data.train, 256, Order::Shuffled { seed: 0, epoch }));
        let batches = batches.collect::<Result<Vec<_>>>()?.into_iter().flatten();
        for (step, batch) in batches.enumerate() {
            let (x, y) = batch?;
            let place = curve(weights(rng.random()));
            let logits = network.forward(&place, &x, Mode::Train { seed: step_seed(0, step) })?;
            let loss = crate::evaluate::cross_entropy(&logits, &y, 0.0)?;
            let gradients = tch::Tensor::run_backward(&[loss], control.tensors(), false, false);
            optimiser.step(&control, &gradients, 1.0, settings.learning_rate)?;
        }
        for point in &found.points {
            let expected = loss_and_accuracy(&network, &curve(weights(point.t)), &data.test)?.0;
            assert!((point.loss - expected).abs() < 1e-4, "{}: {} instead of {expected}", point.t, point.loss);
        }
        Ok(())
    }

    #[test]
    fn the_curve_has_the_models_at_its_ends_and_a_lower_barrier_than_the_line() -> Result<()> {
        let data = blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 32, 32, 4])?;
        let trainer = Trainer { epochs: 20, batch_size: 64, ..Trainer::default() };
        let training = trainer.train(&network, &data, &[0, 1])?;
        let line = Interpolation { points: 9, ..Interpolation::default() }.curve(&training.models, &data)?;
        let settings = Bezier { epochs: 20, batch_size: 64, points: 9, learning_rate: 3e-3, ..Bezier::default() };
        let curve = settings.fit("curve", &training.models, &data)?.curves.remove(0);
        assert_eq!((curve.points[0], curve.points[8]), (line.points[0], line.points[8]));
        let (bent, straight) = (curve.loss_barrier(), line.loss_barrier());
        assert!(straight > 0.05 && bent < 0.2 * straight, "curve {bent}, line {straight}");
        Ok(())
    }
}
