//! Loss on planes: through three models, or around one along random directions.
//!
//! Through models (Garipov et al. 2018): `θ = θ_0 + x u + y v` with `u` and `v` orthonormal, so that distances on the
//! chart are distances between the models. Around one (Li et al. 2018): normal random directions, of which each filter
//! has the length of the model's filter; biases and norms stay.

use polars::prelude::DataFrame;
use tch::Tensor;

use super::evenly_spaced;
use crate::chart::{Chart, Contours};
use crate::data::{Part, Splits};
use crate::error::{Error, Result};
use crate::evaluate::loss_and_accuracy;
use crate::frame::{column, frame};
use crate::merge::{Mixer, REPAIR_SAMPLES, Repair};
use crate::network::{Model, Params, check_models};
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;
use crate::rng::{Purpose, normal, rng};
use crate::train::{positive, within};

/// Settings of a plane.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let models = (0..3).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
/// let models = models.collect::<stemm::Result<Vec<_>>>()?;
/// let landscape = Plane { points: 5, ..Plane::default() }.through("untrained", &models, &data)?;
/// assert_eq!(landscape.losses.len(), 25);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Plane {
    /// Places along each axis.
    pub points: usize,
    /// How far the plane goes on beyond the models, as a share of their extent.
    pub margin: f64,
    /// Half the side of a plane around one model, in lengths of its filters.
    pub radius: f64,
    /// The data on which loss and accuracy are taken.
    pub part: Part,
    /// At most so many of their samples, drawn at random: the cost is points² passes over them.
    pub samples: usize,
    /// How the statistics of the networks are set right, with the training data.
    pub repair: Repair,
    /// Samples of the training data that set statistics right, at most: drawn at random, the same ones at every place. The
    /// cost is points² passes over them (`Repair::Variance`: one for each layer).
    pub repair_samples: usize,
    /// Seed of random directions and of the samples.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Plane {
    fn default() -> Self {
        Plane {
            points: 31,
            margin: 0.25,
            radius: 1.0,
            part: Part::default(),
            samples: 2_000,
            repair: Repair::default(),
            repair_samples: REPAIR_SAMPLES,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// Loss and accuracy on a plane.
#[derive(Clone, Debug)]
pub struct Landscape {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the data set, and how many samples of it were used.
    pub data: (String, usize),
    /// What was done to the statistics of the networks.
    pub repair: Repair,
    /// Places along the axes, from the lowest.
    pub axis: [Vec<f64>; 2],
    /// Losses in nats by rows from the lowest `y`, each from the lowest `x`.
    pub losses: Vec<f64>,
    /// Accuracies in the same order.
    pub accuracies: Vec<f64>,
    /// Named places.
    pub marks: Vec<(String, (f64, f64))>,
    /// Models projected onto the plane, in order.
    pub path: Vec<(f64, f64)>,
    origin: Params,
    directions: [Params; 2],
    axes: [&'static str; 2],
}

impl Plane {
    /// The plane through the first three models; others are projected onto it as marks.
    ///
    /// # Errors
    /// Fewer than three models, models of different networks, models on one line, too few points.
    pub fn through(&self, label: &str, models: &[Model], data: &Splits) -> Result<Landscape> {
        check_models("a plane", models, 3)?;
        self.check()?;
        let _guard = tch::no_grad_guard();
        let [first, second, third] = [0, 1, 2].map(|model: usize| &models[model].params);
        let (along, other) = (difference(second, first)?, difference(third, first)?);
        let width = along.dot(&along)?.sqrt();
        let unit = along.scaled(1.0 / width.max(f64::MIN_POSITIVE))?;
        let shift = other.dot(&unit)?;
        let across = Params::weighted_sum(&[&other, &unit], &[1.0, -shift])?;
        let height = across.dot(&across)?.sqrt();
        if !(width > 0.0 && height > 1e-6 * width) {
            let requirement = "three models that do not lie on one line";
            return Err(Error::Setting { setting: "models", value: label.to_owned(), requirement });
        }
        let directions = [unit, across.scaled(1.0 / height)?];
        let marks = [(0.0, 0.0), (width, 0.0), (shift, height)];
        let mut landscape = Landscape {
            label: label.to_owned(),
            marks: (0..).zip(marks).map(|(model, place)| (format!("model {model}"), place)).collect(),
            axes: ["l2 distance", "l2 distance"],
            ..self.empty(first, directions)?
        };
        for (model, other) in models.iter().enumerate().skip(3) {
            let place = landscape.project(other)?;
            landscape.marks.push((format!("model {model}"), place));
        }
        let margin = self.margin * width.max(height);
        let axis = |place: fn(&(f64, f64)) -> f64| {
            let places = landscape.marks.iter().map(|(_, at)| place(at));
            let (low, high) = places.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), at| (l.min(at), h.max(at)));
            evenly_spaced(low - margin, high + margin, self.points).collect()
        };
        landscape.axis = [axis(|place| place.0), axis(|place| place.1)];
        // θ_0 + x u + y v in terms of the models, so that each has its own statistics where it lies.
        let weights = |x: f64, y: f64| {
            let third = y / height;
            let second = (x - shift * third) / width;
            vec![1.0 - second - third, second, third]
        };
        self.fill(landscape, &models[..3], data, &|mixer, x, y| mixer.at(&weights(x, y)))
    }

    /// The plane around a model along two random directions with the lengths of its filters.
    ///
    /// # Errors
    /// NaN weights, too few points.
    pub fn around(&self, label: &str, model: &Model, data: &Splits) -> Result<Landscape> {
        check_models("a plane", std::slice::from_ref(model), 1)?;
        self.check()?;
        let _guard = tch::no_grad_guard();
        let mut rng = rng(self.seed, Purpose::Landscape);
        let weights: Vec<usize> = model.network.weight_layers()?.into_iter().map(|layer| layer.weight).collect();
        let mut direction = || -> Result<Params> {
            let tensors = model.params.tensors().iter().enumerate().map(|(index, tensor)| {
                // Biases and norms stay.
                if weights.contains(&index) { filter_normalised(&mut rng, tensor) } else { Ok(tensor.f_zeros_like()?) }
            });
            Ok(model.params.without_buffers().with(tensors.collect::<Result<_>>()?))
        };
        let directions = [direction()?, direction()?];
        let axis: Vec<f64> = evenly_spaced(-self.radius, self.radius, self.points).collect();
        let landscape = Landscape {
            label: label.to_owned(),
            marks: vec![("model".to_owned(), (0.0, 0.0))],
            axis: [axis.clone(), axis],
            axes: ["first direction (filter lengths)", "second direction"],
            ..self.empty(&model.params, directions)?
        };
        let [u, v] = [0, 1].map(|axis: usize| landscape.directions[axis].clone());
        let origin = landscape.origin.clone();
        // Everywhere the model's own statistics, or those that repair gives.
        let place = |mixer: &Mixer, x: f64, y: f64| -> Result<Model> {
            let moved = Params::weighted_sum(&[&origin, &u, &v], &[1.0, x, y])?;
            mixer.set_right(model.params.with(moved.tensors().iter().map(Tensor::shallow_clone).collect()), &[1.0])
        };
        self.fill(landscape, std::slice::from_ref(model), data, &place)
    }

    fn check(&self) -> Result<()> {
        positive("samples", self.samples)?;
        within("points", self.points, 2)?;
        for (setting, value) in [("margin", self.margin), ("radius", self.radius)] {
            if !(value >= 0.0 && value.is_finite()) || setting == "radius" && value == 0.0 {
                return Err(Error::Setting { setting, value: value.to_string(), requirement: "a positive number" });
            }
        }
        Ok(())
    }

    fn empty(&self, origin: &Params, directions: [Params; 2]) -> Result<Landscape> {
        Ok(Landscape {
            label: String::new(),
            data: (String::new(), 0),
            repair: Repair::Off,
            axis: [Vec::new(), Vec::new()],
            losses: Vec::new(),
            accuracies: Vec::new(),
            marks: Vec::new(),
            path: Vec::new(),
            origin: origin.without_buffers(),
            directions: directions.map(|direction| direction.without_buffers()),
            axes: ["", ""],
        })
    }

    /// Evaluates every place, which `at` finds for the mixer of `models`.
    fn fill(
        &self,
        mut landscape: Landscape,
        models: &[Model],
        data: &Splits,
        at: &dyn Fn(&Mixer, f64, f64) -> Result<Model>,
    ) -> Result<Landscape> {
        let network = &models[0].network;
        let samples = (data, self.repair_samples, self.seed);
        let mixer = Mixer::for_walk("a plane", (models, 1), self.repair, samples)?;
        let part = data.part(self.part).sample(self.samples, self.seed)?;
        let mut task = self.progress.task(format!("plane {}", landscape.label), self.points * self.points);
        for &y in &landscape.axis[1] {
            for &x in &landscape.axis[0] {
                let own = at(&mixer, x, y)?;
                let (loss, accuracy) = loss_and_accuracy(network, &own.params, &part)?;
                landscape.losses.push(loss);
                landscape.accuracies.push(accuracy);
                task.step(|| format!("loss {loss:.4}"))?;
            }
        }
        landscape.data = (part.name().to_owned(), part.len());
        landscape.repair = self.repair.done_to(network);
        Ok(landscape)
    }
}

fn difference(a: &Params, b: &Params) -> Result<Params> {
    Params::weighted_sum(&[&a.without_buffers(), &b.without_buffers()], &[1.0, -1.0])
}

/// A normal random direction whose filters (the first axis) have the lengths of the tensor's.
fn filter_normalised(rng: &mut impl rand::Rng, tensor: &Tensor) -> Result<Tensor> {
    let normal = normal(&tensor.size(), rng, tensor.device())?.f_to_kind(tensor.kind())?;
    let length = |values: &Tensor| -> Result<Tensor> {
        let mut shape = vec![1; tensor.dim()];
        shape[0] = -1;
        let flat = values.f_reshape([tensor.size()[0], -1])?;
        Ok(flat.f_norm_scalaropt_dim(2.0, [1i64].as_slice(), false)?.f_view(shape.as_slice())?)
    };
    Ok(normal.f_mul(&length(tensor)?.f_div(&length(&normal)?)?)?)
}

impl Landscape {
    /// Where a model's projection lies on the plane.
    ///
    /// # Errors
    /// A model of another network.
    pub fn project(&self, model: &Model) -> Result<(f64, f64)> {
        let _guard = tch::no_grad_guard();
        self.origin.check_same(&model.params)?;
        let from_origin = difference(&model.params, &self.origin)?;
        let [u, v] = &self.directions;
        // Random directions are nearly, not exactly, orthogonal: the normal equations of least squares.
        let (uu, uv, vv) = (u.dot(u)?, u.dot(v)?, v.dot(v)?);
        let (a, b) = (from_origin.dot(u)?, from_origin.dot(v)?);
        let determinant = uu * vv - uv * uv;
        Ok(((a * vv - b * uv) / determinant, (b * uu - a * uv) / determinant))
    }

    /// The landscape with a path of models on it, each projected onto the plane.
    ///
    /// # Errors
    /// Models of another network.
    pub fn with_path(mut self, models: &[Model]) -> Result<Landscape> {
        self.path = models.iter().map(|model| self.project(model)).collect::<Result<_>>()?;
        Ok(self)
    }

    /// One row a place: `x`, `y`, loss, accuracy.
    pub fn frame(&self) -> DataFrame {
        let rows = self.losses.len();
        let columns = self.axis[0].len();
        frame([
            column("label", (0..rows).map(|_| self.label.as_str())),
            column("data_set", (0..rows).map(|_| self.data.0.as_str())),
            column("samples", (0..rows).map(|_| self.data.1 as u64)),
            column("repair", (0..rows).map(|_| self.repair.to_string())),
            column("x", (0..rows).map(|row| self.axis[0][row % columns])),
            column("y", (0..rows).map(|row| self.axis[1][row / columns])),
            column("loss_nats", self.losses.iter().copied()),
            column("accuracy", self.accuracies.iter().copied()),
        ])
    }

    /// The loss as contours.
    pub fn chart(&self) -> Chart {
        let ends = |axis: &[f64]| (axis[0], axis[axis.len() - 1]);
        let title = format!("Loss (nats), {}", self.label);
        let (x, y) = ((self.axes[0], ends(&self.axis[0])), (self.axes[1], ends(&self.axis[1])));
        let plane = Contours::plane(title, x, y, self.axis[0].len(), self.losses.clone());
        plane.marks(self.marks.iter().cloned()).path(self.path.clone()).into()
    }
}

impl Show for Landscape {
    fn look(&self) -> Bundle {
        let (name, samples) = &self.data;
        Bundle::table(&self.frame(), &format!("{} on {samples} of {name}, repair: {}", self.label, self.repair))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::blobs;
    use crate::network::Network;
    use tch::Device;

    fn model(seed: u64) -> Result<Model> {
        let network = Network::mlp(&[16, 8, 4])?;
        Model::new(network.clone(), network.init(seed, Device::Cpu)?)
    }

    #[test]
    fn models_lie_on_their_plane_at_their_distances_with_their_losses() -> Result<()> {
        let (models, data) = (vec![model(0)?, model(1)?, model(2)?, model(3)?], blobs(0, Device::Cpu)?);
        // Three points along each axis and a margin that puts them onto the first two models.
        let plane = Plane { points: 2, margin: 0.0, ..Plane::default() }.through("four", &models, &data)?;
        for (index, own) in models[..3].iter().enumerate() {
            let (x, y) = plane.marks[index].1;
            let found = plane.project(own)?;
            assert!((found.0 - x).abs() < 1e-4 && (found.1 - y).abs() < 1e-4, "{found:?} {x} {y}");
        }
        let difference = difference(&models[2].params, &models[0].params)?;
        let (x, y) = plane.marks[2].1;
        assert!((x.hypot(y) - difference.dot(&difference)?.sqrt()).abs() < 1e-4);
        let three = Plane { points: 2, margin: 0.0, ..Plane::default() }.through("three", &models[..3], &data)?;
        let corner = three.axis[0].iter().position(|&x| x == 0.0);
        if corner == Some(0) {
            let own = loss_and_accuracy(&models[0].network, &models[0].params, &data.test)?.0;
            assert!((three.losses[0] - own).abs() < 1e-6, "{} {own}", three.losses[0]);
        }
        Ok(())
    }

    #[test]
    fn random_directions_have_the_lengths_of_the_filters_and_leave_biases() -> Result<()> {
        let own = model(0)?;
        let plane = Plane { points: 3, ..Plane::default() }.around("one", &own, &blobs(0, Device::Cpu)?)?;
        for direction in &plane.directions {
            for (direction, tensor) in direction.tensors().iter().zip(own.params.tensors()) {
                let lengths = |t: &Tensor| t.norm_scalaropt_dim(2.0, [-1i64].as_slice(), false);
                let error = match tensor.dim() {
                    1 => direction.abs().max(),
                    _ => (lengths(direction) - lengths(tensor)).abs().max(),
                };
                assert!(error.double_value(&[]) < 1e-5);
            }
        }
        let place = (0.3, -0.7);
        let [u, v] = &plane.directions;
        assert!(u.dot(v)?.abs() > 1e-3 * u.dot(u)?, "orthogonal directions test less");
        let there = Params::weighted_sum(&[&own.params, u, v], &[1.0, place.0, place.1])?;
        let found = plane.project(&Model::new(own.network.clone(), there)?)?;
        assert!((found.0 - place.0).abs() < 1e-5 && (found.1 - place.1).abs() < 1e-5, "{found:?}");
        let own_loss = loss_and_accuracy(&own.network, &own.params, &blobs(0, Device::Cpu)?.test)?.0;
        assert!((plane.losses[4] - own_loss).abs() < 1e-6, "the model is in the middle");
        Ok(())
    }
}
