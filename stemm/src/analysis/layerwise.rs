//! Connectivity layer by layer: barriers where only some layers move from one model to another (Adilova et al. 2024), and whether
//! outputs inside the network mix as the weights do (layerwise linear feature connectivity; Zhou et al. 2023).

use polars::prelude::DataFrame;
use tch::{Kind, Tensor};

use super::activation::exactly_two;
use super::evenly_spaced;
use super::statistics::mean_and_error;
use crate::chart::{Bars, Chart, Lines, Series};
use crate::data::{Part, Splits};
use crate::error::Result;
use crate::evaluate::{highest, loss_and_accuracy};
use crate::frame::{column, frame};
use crate::merge::{Mixer, REPAIR_SAMPLES, Repair};
use crate::network::{Memory, Model, Params};
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;
use crate::train::within;

/// Which layers move from the first model to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// One layer, all others from the first model.
    Each,
    /// The layer and all before it.
    UpTo,
}

/// Settings of the walk from one model to another, some layers at a time.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let walk = LayerwiseInterpolation { points: 5, ..LayerwiseInterpolation::default() };
/// let barriers = walk.barriers("untrained", &[model(0)?, model(1)?], &data)?;
/// assert_eq!(barriers.layers[0].name, "layer1");
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LayerwiseInterpolation {
    /// Which layers move.
    pub moving: Moving,
    /// Evenly spaced places on each line, ends included.
    pub points: usize,
    /// The data on which losses are taken.
    pub part: Part,
    /// Samples of the training data that set the statistics of batch norm right, at most; networks that are mixed of layers have none
    /// of their own.
    pub repair_samples: usize,
    /// Seed of these samples.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for LayerwiseInterpolation {
    fn default() -> Self {
        LayerwiseInterpolation {
            moving: Moving::Each,
            points: 11,
            part: Part::default(),
            repair_samples: REPAIR_SAMPLES,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// Barriers of two models, layer by layer.
#[derive(Clone, Debug)]
pub struct LayerBarriers {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// Which layers moved.
    pub moving: Moving,
    /// One a layer with parameters, in order.
    pub layers: Vec<LayerBarrier>,
}

/// The way of one layer, or of all up to it.
#[derive(Clone, Debug)]
pub struct LayerBarrier {
    /// Name of the layer.
    pub name: String,
    /// Place and loss, in nats.
    pub losses: Vec<(f64, f64)>,
    /// How far the loss is above the line between the losses of the two whole models, at most, in nats.
    pub barrier: f64,
}

impl LayerwiseInterpolation {
    /// The barrier of each layer between two models.
    ///
    /// # Errors
    /// Another number of models than two, models of different networks, data that do not fit, fewer than two points.
    pub fn barriers(&self, label: &str, models: &[Model], data: &Splits) -> Result<LayerBarriers> {
        let [first, second] = exactly_two("a layer-wise barrier", models)?;
        within("points", self.points, 2)?;
        let network = &first.network;
        let samples = (data, self.repair_samples, self.seed);
        let mixer = Mixer::for_walk("a layer-wise barrier", (models, 2), Repair::default(), samples)?;
        let part = data.part(self.part);
        let (plan, _) = network.plan()?;
        let owners: Vec<&str> = plan.parameters.iter().map(|tensor| tensor.layer.as_str()).collect();
        let mut names = owners.clone();
        names.dedup(); // the tensors of a layer stand side by side
        let loss = |weights: [f64; 2], params: Params| -> Result<f64> {
            let model = mixer.set_right(params, &weights)?;
            Ok(loss_and_accuracy(network, &model.params, part)?.0)
        };
        let ends = [loss([1.0, 0.0], first.params.clone())?, loss([0.0, 1.0], second.params.clone())?];
        let mut task = self.progress.task(format!("layers {label}"), names.len() * self.points);
        let mut layers = Vec::new();
        for (place, name) in names.iter().enumerate() {
            let moves = |owner: &str| match self.moving {
                Moving::Each => owner == *name,
                Moving::UpTo => names[..=place].contains(&owner),
            };
            let mut losses = Vec::new();
            for t in evenly_spaced(0.0, 1.0, self.points) {
                let tensors = first.params.tensors().iter().zip(second.params.tensors()).zip(&owners);
                let tensors = tensors.map(|((a, b), owner)| {
                    let share = if moves(owner) { t } else { 0.0 };
                    Ok(a.f_mul_scalar(1.0 - share)?.f_add(&b.f_mul_scalar(share)?)?)
                });
                let loss = loss([1.0 - t, t], first.params.with(tensors.collect::<Result<_>>()?))?;
                losses.push((t, loss));
                task.step(|| format!("{name}, loss {loss:.4}"))?;
            }
            let above = losses.iter().map(|(t, loss)| loss - ((1.0 - t) * ends[0] + t * ends[1]));
            layers.push(LayerBarrier { name: (*name).to_owned(), barrier: highest(above), losses });
        }
        Ok(LayerBarriers { label: label.to_owned(), data: part.name().to_owned(), moving: self.moving, layers })
    }
}

impl LayerBarriers {
    /// One row a layer.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.layers;
        let moving = if self.moving == Moving::Each { "this layer" } else { "all up to this layer" };
        frame([
            column("label", rows.iter().map(|_| self.label.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("moving", rows.iter().map(|_| moving)),
            column("layer", rows.iter().map(|row| row.name.as_str())),
            column("loss_barrier_nats", rows.iter().map(|row| row.barrier)),
            column("loss_at_end_nats", rows.iter().map(|row| row.losses.last().map(|end| end.1))),
        ])
    }

    /// The barrier of each layer.
    pub fn chart(&self) -> Chart {
        let bars = self.layers.iter().map(|layer| (layer.name.clone(), layer.barrier, 0.0)).collect();
        let what = if self.moving == Moving::Each { "one layer moves" } else { "all layers up to it move" };
        Bars::new(format!("Barriers where {what}, {}", self.label), "loss barrier (nats)", bars).into()
    }
}

impl Show for LayerBarriers {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &format!("{} on {}", self.label, self.data))
    }
}

/// How far outputs inside the network halfway between two models are from the mean of the models' outputs.
#[derive(Clone, Debug)]
pub struct FeatureConnectivity {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// One a linear or convolution layer, in order.
    pub layers: Vec<LayerFeatures>,
}

/// Cosine distances of one layer's outputs, `1 - cos`, over samples.
#[derive(Clone, Debug)]
pub struct LayerFeatures {
    /// Name of the layer.
    pub name: String,
    /// Between the output of the network halfway and the mean of the two models' outputs: mean and standard error.
    pub to_mean: (f64, f64),
    /// Between the two models' own outputs: what the distance above is to be seen beside.
    pub between_ends: (f64, f64),
}

/// Layerwise linear feature connectivity of two models on the test data: for each layer the mean over samples of
/// `1 - cos(f(θ_½), ½ f(θ_A) + ½ f(θ_B))`, with `f` the outputs before the activation (after a batch norm), and beside it the same
/// between the two models. Statistics halfway are set right as by [`Repair::BatchNorm`].
///
/// # Errors
/// Another number of models than two, models of different networks, data that do not fit.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let same = feature_connectivity("twice the same", &[model.clone(), model], &data)?;
/// assert!(same.layers.iter().all(|layer| layer.to_mean.0 < 1e-6));
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn feature_connectivity(label: &str, models: &[Model], data: &Splits) -> Result<FeatureConnectivity> {
    let [first, second] = exactly_two("feature connectivity", models)?;
    let network = &first.network;
    let samples = (data, REPAIR_SAMPLES, 0);
    let half = Mixer::for_walk("feature connectivity", (models, 2), Repair::default(), samples)?.at(&[0.5, 0.5])?;
    let _guard = tch::no_grad_guard();
    let wanted = network.unit_outputs()?;
    let mut distances: Vec<[Vec<f64>; 2]> = wanted.iter().map(|_| Default::default()).collect();
    // The outputs of all layers of three networks are there at a time.
    let largest = (network.most_samples(Memory::SecondOrder)? / 3).max(1);
    for batch in network.chunks(&data.test, Memory::Forward, largest)? {
        let (x, _) = batch?;
        let outputs = |params: &Params| network.outputs(params, &x, &wanted);
        let (a, b, between) = (outputs(&first.params)?, outputs(&second.params)?, outputs(&half.params)?);
        for (layer, own) in distances.iter_mut().enumerate() {
            own[0].extend(cosine_distances(&between[layer], &a[layer].f_add(&b[layer])?)?);
            own[1].extend(cosine_distances(&a[layer], &b[layer])?);
        }
    }
    let layers = wanted.into_iter().zip(distances).map(|(output, [to_mean, between])| LayerFeatures {
        name: output.layer,
        to_mean: mean_and_error(&to_mean),
        between_ends: mean_and_error(&between),
    });
    let (label, data) = (label.to_owned(), data.test.name().to_owned());
    Ok(FeatureConnectivity { label, data, layers: layers.collect() })
}

/// `1 - cos` of each sample's values, in f64.
fn cosine_distances(a: &Tensor, b: &Tensor) -> Result<Vec<f64>> {
    let rows = |tensor: &Tensor| tensor.f_to_kind(Kind::Double)?.f_flatten(1, -1);
    let cosine = Tensor::f_cosine_similarity(&rows(a)?, &rows(b)?, 1, 1e-12)?;
    Ok(Vec::try_from(cosine.f_neg()?.f_add_scalar(1.0)?)?)
}

impl FeatureConnectivity {
    /// One row a layer.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.layers;
        frame([
            column("label", rows.iter().map(|_| self.label.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("layer", rows.iter().map(|row| row.name.as_str())),
            column("distance_to_mean", rows.iter().map(|row| row.to_mean.0)),
            column("distance_to_mean_error", rows.iter().map(|row| row.to_mean.1)),
            column("distance_between_models", rows.iter().map(|row| row.between_ends.0)),
            column("distance_between_models_error", rows.iter().map(|row| row.between_ends.1)),
        ])
    }

    /// How far outputs halfway are from the mean of the models' outputs, and, dashed, the models' from each other, by layer: where
    /// features are connected, the first is near 0 though the second is not.
    pub fn chart(&self) -> Chart {
        let points = |value: fn(&LayerFeatures) -> f64| -> Vec<(f64, f64)> {
            (1..).zip(&self.layers).map(|(place, layer)| (f64::from(place), value(layer))).collect()
        };
        let halfway = Series::new("halfway", points(|layer| layer.to_mean.0));
        let ends = Series::new("models", points(|layer| layer.between_ends.0)).dashed();
        Lines::new(format!("Outputs, {}", self.label), "layer", "1 - cosine").series([halfway, ends]).into()
    }
}

impl Show for FeatureConnectivity {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &format!("{} on {}", self.label, self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Interpolation;
    use crate::network::Network;
    use tch::Device;

    fn two(network: &Network) -> Result<[Model; 2]> {
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
        Ok([model(0)?, model(1)?])
    }

    #[test]
    fn all_layers_up_to_the_last_are_the_whole_line_and_one_layer_is_that_layer() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 12, 8, 4])?;
        let models = two(&network)?;
        let up_to = LayerwiseInterpolation { moving: Moving::UpTo, points: 5, ..LayerwiseInterpolation::default() };
        let found = up_to.barriers("", &models, &data)?;
        let whole = Interpolation { points: 5, ..Interpolation::default() }.curve(&models, &data)?;
        assert_eq!(found.layers.len(), 3);
        assert!((found.layers[2].barrier - whole.loss_barrier()).abs() < 1e-6);
        let each = LayerwiseInterpolation { moving: Moving::Each, ..up_to.clone() }.barriers("", &models, &data)?;
        assert_eq!(format!("{:?}", each.layers[0]), format!("{:?}", found.layers[0]));
        // The second layer alone, by hand, at its end.
        let mut tensors: Vec<Tensor> = models[0].params.tensors().iter().map(Tensor::shallow_clone).collect();
        (2..4).for_each(|index| tensors[index] = models[1].params.tensors()[index].shallow_clone());
        let exact = Model::new(network, models[0].params.with(tensors))?.evaluate(&data.test)?.loss;
        assert!((each.layers[1].losses[4].1 - exact).abs() < 1e-6);
        assert!(each.layers[1].barrier >= exact - models[1].evaluate(&data.test)?.loss - 1e-9);
        assert!(up_to.barriers("", &models[..1], &data).is_err());
        Ok(())
    }

    #[test]
    fn distances_of_outputs_are_those_of_the_formula() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?;
        let models = two(&Network::mlp(&[16, 12, 4])?)?;
        let found = feature_connectivity("", &models, &data)?;
        let x = data.test.images();
        let first = |t: f64| {
            let at =
                |index: usize| &models[0].params.tensors()[index] * (1.0 - t) + &models[1].params.tensors()[index] * t;
            x.linear(&at(0), Some(&at(1)))
        };
        let distance = |a: &Tensor, b: &Tensor| {
            let cosines = (a * b).sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
                / (a.norm_scalaropt_dim(2, [1i64], false) * b.norm_scalaropt_dim(2, [1i64], false));
            1.0 - cosines.mean(Kind::Double).double_value(&[])
        };
        assert!((found.layers[0].between_ends.0 - distance(&first(0.0), &first(1.0))).abs() < 1e-5);
        // The first layer is linear in the weights: halfway is the mean.
        assert!(found.layers[0].to_mean.0 < 1e-6 && found.layers[1].to_mean.0 > 1e-3);
        assert!(found.layers[1].to_mean.1 > 0.0 && found.layers.len() == 2);
        Ok(())
    }
}
