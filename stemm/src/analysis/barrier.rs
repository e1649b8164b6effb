//! Loss and accuracy on the straight line between two models, and the barriers of all pairs.
//!
//! With `L(t)` the loss at `(1-t) θ_a + t θ_b`: barrier = `max_t [ L(t) - ((1-t) L(0) + t L(1)) ]`
//! (Frankle et al. 2020; Entezari et al. 2022). Git Re-Basin's form is `max_t L(t) - (L(0) + L(1)) / 2`.

use polars::prelude::DataFrame;

use super::evenly_spaced;
use crate::chart::{Chart, Heatmap, Lines, Series};
use crate::data::{Dataset, Part, Splits};
use crate::error::{Error, Result};
use crate::evaluate::{by_loss, highest, loss_and_accuracy};
use crate::frame::{column, frame};
use crate::merge::{Mixer, REPAIR_SAMPLES, Repair};
use crate::network::Model;
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;
use crate::train::within;

/// Loss and accuracy at one place of a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Position: 0 at the first model, 1 at the second.
    pub t: f64,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
}

/// The path between two models.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// Position of the first model in the list.
    pub from: usize,
    /// Position of the second.
    pub to: usize,
    /// Points in order of `t`, from 0 to 1.
    pub points: Vec<Point>,
}

impl Curve {
    /// The most that the loss rises above the line between the ends, in nats; 0 if it never does, NaN if a loss is NaN.
    pub fn loss_barrier(&self) -> f64 {
        self.highest(|point| point.loss)
    }

    /// The most that the accuracy falls below the line between the ends.
    pub fn accuracy_barrier(&self) -> f64 {
        self.highest(|point| -point.accuracy)
    }

    /// Git Re-Basin's form of the loss barrier: the highest loss less the mean of the ends, in nats.
    pub fn loss_barrier_above_mean(&self) -> f64 {
        let highest = highest(self.points.iter().map(|point| point.loss));
        let (first, last) = self.ends();
        highest - (first.loss + last.loss) / 2.0
    }

    /// Loss in the middle of the path, in nats; the nearest point of the grid if its number is even.
    pub fn midpoint_loss(&self) -> f64 {
        self.points[self.points.len() / 2].loss
    }

    /// The place of the loss barrier.
    pub fn barrier_position(&self) -> f64 {
        let highest = self.above_ends(|point| point.loss).max_by(|a, b| by_loss(a.1, b.1));
        highest.map_or(0.0, |(t, _)| t)
    }

    fn highest(&self, value: fn(&Point) -> f64) -> f64 {
        highest(self.above_ends(value).map(|(_, above)| above))
    }

    /// At each place, how far a value is above the line between the ends.
    fn above_ends(&self, value: fn(&Point) -> f64) -> impl Iterator<Item = (f64, f64)> {
        let (first, last) = self.ends();
        self.points.iter().map(move |p| (p.t, value(p) - ((1.0 - p.t) * value(&first) + p.t * value(&last))))
    }

    fn ends(&self) -> (Point, Point) {
        // `barriers` makes at least two points.
        (self.points[0], self.points[self.points.len() - 1])
    }
}

/// The paths between all pairs of models, with the data they were measured on.
#[derive(Clone, Debug)]
pub struct Barriers {
    /// What the models are, for titles: `before alignment`, say.
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// What was done to the statistics at every place, the ends among them.
    pub repair: Repair,
    /// Number of models.
    pub models: usize,
    /// One curve a pair `from < to`.
    pub curves: Vec<Curve>,
}

/// Settings of the walk along straight lines between models.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let walk = Interpolation { points: 5, ..Interpolation::default() };
/// let barriers = walk.barriers("untrained", &[model(0)?, model(1)?], &data)?;
/// assert!(barriers.curves[0].loss_barrier() >= 0.0);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Interpolation {
    /// Evenly spaced places on each line, ends included.
    pub points: usize,
    /// The data on which loss and accuracy are taken.
    pub part: Part,
    /// How the statistics of the networks on the line are set right, the ends' as all others, with the training data.
    pub repair: Repair,
    /// Samples of the training data that set statistics right, at most: drawn at random, the same ones at every place. The
    /// cost is a pass over them at each place (`Repair::Variance`: one for each layer).
    pub repair_samples: usize,
    /// Seed of these samples.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Interpolation {
    fn default() -> Self {
        Interpolation {
            points: 25,
            part: Part::default(),
            repair: Repair::default(),
            repair_samples: REPAIR_SAMPLES,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

impl Interpolation {
    /// Loss and accuracy along the line between two models.
    ///
    /// # Errors
    /// As [`Interpolation::barriers`]; another number of models than two.
    pub fn curve(&self, models: &[Model], data: &Splits) -> Result<Curve> {
        let mut all = self.barriers("", models, data)?;
        if models.len() != 2 {
            let requirement = "exactly two; use `barriers` for all pairs of more";
            return Err(Error::Setting { setting: "models", value: models.len().to_string(), requirement });
        }
        Ok(all.curves.remove(0))
    }

    /// Loss and accuracy along the lines between all pairs of models.
    ///
    /// # Errors
    /// Fewer than two models, models of different networks, fewer than two points.
    pub fn barriers(&self, label: &str, models: &[Model], data: &Splits) -> Result<Barriers> {
        within("points", self.points, 2)?;
        let samples = (data, self.repair_samples, self.seed);
        let mixer = Mixer::for_walk("a barrier", (models, 2), self.repair, samples)?;
        let n = models.len();
        let pairs: Vec<(usize, usize)> = super::pairs(n).collect();
        let total = pairs.len() * (self.points - 2) + n;
        let mut task = self.progress.task(format!("barriers {label}"), total);
        // The place at a share `t` of the way from one model to another.
        let mut place = |from: usize, to: usize, t: f64| {
            let mut weights = vec![0.0; n];
            weights[from] += 1.0 - t;
            weights[to] += t;
            let point = point(&mixer.at(&weights)?, t, data.part(self.part))?;
            task.step(|| format!("loss {:.4}", point.loss))?;
            Ok::<Point, Error>(point)
        };
        let ends: Vec<Point> = (0..n).map(|model| place(model, model, 0.0)).collect::<Result<_>>()?;
        let curves = pairs
            .into_iter()
            .map(|(from, to)| {
                let inner = evenly_spaced(0.0, 1.0, self.points).filter(|&t| t > 0.0 && t < 1.0);
                let mut points = vec![ends[from]];
                points.extend(inner.map(|t| place(from, to, t)).collect::<Result<Vec<_>>>()?);
                points.push(Point { t: 1.0, ..ends[to] });
                Ok(Curve { from, to, points })
            })
            .collect::<Result<_>>()?;
        let repair = self.repair.done_to(&models[0].network);
        Ok(Barriers {
            label: label.to_owned(),
            data: data.part(self.part).name().to_owned(),
            repair,
            models: n,
            curves,
        })
    }
}

fn point(model: &Model, t: f64, data: &Dataset) -> Result<Point> {
    let (loss, accuracy) = loss_and_accuracy(&model.network, &model.params, data)?;
    Ok(Point { t, loss, accuracy })
}

impl Barriers {
    /// The mean loss barrier over all pairs, in nats.
    pub fn mean_loss_barrier(&self) -> f64 {
        self.curves.iter().map(Curve::loss_barrier).sum::<f64>() / self.curves.len() as f64
    }

    /// One row a pair: barriers of loss and accuracy.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.curves;
        frame([
            column("label", rows.iter().map(|_| self.label.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("repair", rows.iter().map(|_| self.repair.to_string())),
            column("from", rows.iter().map(|curve| curve.from as u64)),
            column("to", rows.iter().map(|curve| curve.to as u64)),
            column("loss_barrier_nats", rows.iter().map(Curve::loss_barrier)),
            column("barrier_position", rows.iter().map(Curve::barrier_position)),
            column("loss_barrier_above_mean_nats", rows.iter().map(Curve::loss_barrier_above_mean)),
            column("accuracy_barrier", rows.iter().map(Curve::accuracy_barrier)),
            column("midpoint_loss_nats", rows.iter().map(Curve::midpoint_loss)),
        ])
    }

    /// One row a point of a path.
    pub fn curve_frame(&self) -> DataFrame {
        let rows: Vec<(&Curve, &Point)> =
            self.curves.iter().flat_map(|curve| curve.points.iter().map(move |point| (curve, point))).collect();
        frame([
            column("label", rows.iter().map(|_| self.label.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("repair", rows.iter().map(|_| self.repair.to_string())),
            column("from", rows.iter().map(|(curve, _)| curve.from as u64)),
            column("to", rows.iter().map(|(curve, _)| curve.to as u64)),
            column("t", rows.iter().map(|(_, point)| point.t)),
            column("loss_nats", rows.iter().map(|(_, point)| point.loss)),
            column("accuracy", rows.iter().map(|(_, point)| point.accuracy)),
        ])
    }

    /// The loss barriers of all pairs as a heat map.
    pub fn chart(&self) -> Chart {
        self.chart_beside(&[])
    }

    /// The heat map beside those of `others`, in the same colours.
    pub fn chart_beside(&self, others: &[&Barriers]) -> Chart {
        let all = || std::iter::once(self).chain(others.iter().copied());
        let highest = all().flat_map(|barriers| barriers.curves.iter().map(Curve::loss_barrier)).fold(0.0, f64::max);
        let first = self.heatmap(highest).into();
        others.iter().fold(first, |chart: Chart, other| chart.beside(other.heatmap(highest).into()))
    }

    fn heatmap(&self, highest: f64) -> Heatmap {
        let mut values = vec![vec![None; self.models]; self.models];
        for curve in &self.curves {
            values[curve.from][curve.to] = Some(curve.loss_barrier());
            values[curve.to][curve.from] = Some(curve.loss_barrier());
        }
        let names = (0..self.models).map(|model| format!("model {model}")).collect();
        Heatmap::new(format!("Loss barrier (nats), {}", self.label), names, values).highest(highest)
    }

    /// The losses along all paths, together with those of `others` (the same pairs, aligned, say).
    pub fn curve_chart(&self, others: &[&Barriers]) -> Chart {
        let all = std::iter::once(self).chain(others.iter().copied());
        let series = all.enumerate().flat_map(|(color, barriers)| {
            barriers.curves.iter().enumerate().map(move |(pair, curve)| {
                let points = curve.points.iter().map(|point| (point.t, point.loss)).collect();
                // One entry in the legend for all pairs of a label.
                let name = if pair == 0 { barriers.label.clone() } else { String::new() };
                Series::new(name, points).color(color)
            })
        });
        let title = format!("Loss between pairs of models ({})", self.data);
        Lines::new(title, "position t between two models", "loss (nats)").series(series).into()
    }

    /// The mean loss over all pairs along the path, with the range from the lowest to the highest pair as a band; together
    /// with those of `others`.
    pub fn mean_curve_chart(&self, others: &[&Barriers]) -> Chart {
        let all = std::iter::once(self).chain(others.iter().copied());
        let series = all.map(|barriers| {
            let places = 0..barriers.curves.iter().map(|curve| curve.points.len()).min().unwrap_or(0);
            let losses = |place: usize| barriers.curves.iter().map(move |curve| curve.points[place].loss);
            let mean = |place| losses(place).sum::<f64>() / barriers.curves.len() as f64;
            let range =
                |place| (losses(place).fold(f64::INFINITY, f64::min), losses(place).fold(f64::NEG_INFINITY, f64::max));
            let points = places.clone().map(|place| (barriers.curves[0].points[place].t, mean(place))).collect();
            Series::new(barriers.label.clone(), points).band(places.map(range).collect())
        });
        let title = format!("Loss between pairs of models: mean and range ({})", self.data);
        Lines::new(title, "position t between two models", "loss (nats)").series(series).into()
    }
}

impl Show for Barriers {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &format!("{} on {}", self.label, self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barrier_of_a_known_curve() {
        let point = |t, loss| Point { t, loss, accuracy: 1.0 - loss / 4.0 };
        let curve = Curve { from: 0, to: 1, points: vec![point(0.0, 1.0), point(0.5, 3.0), point(1.0, 2.0)] };
        assert_eq!(curve.loss_barrier(), 1.5); // 3 - (1 + 2) / 2
        assert_eq!(curve.midpoint_loss(), 3.0);
        assert_eq!(curve.barrier_position(), 0.5);
        assert_eq!(curve.loss_barrier_above_mean(), 1.5);
        assert_eq!(curve.accuracy_barrier(), 1.5 / 4.0);
        let points = [2.0, 3.0, 2.5, 2.5, 2.0].iter().zip([0.0, 0.25, 0.5, 0.75, 1.0]);
        let longer = Curve { from: 1, to: 2, points: points.map(|(&loss, t)| point(t, loss)).collect() };
        assert_eq!((longer.midpoint_loss(), longer.loss_barrier()), (2.5, 1.0));
        let (label, data) = (String::new(), String::new());
        let both = Barriers { label, data, repair: Repair::Off, models: 3, curves: vec![curve, longer] };
        assert_eq!(both.mean_loss_barrier(), 1.25);
    }

    #[test]
    fn a_path_that_only_sags_has_no_barrier() {
        let point = |t, loss| Point { t, loss, accuracy: 0.5 };
        let curve = Curve { from: 0, to: 1, points: vec![point(0.0, 1.0), point(0.5, 0.2), point(1.0, 1.0)] };
        assert_eq!(curve.loss_barrier(), 0.0);
    }
    #[test]
    fn the_barrier_is_the_brute_force_maximum_along_the_line() -> Result<()> {
        let data = crate::data::blobs(0, tch::Device::Cpu)?;
        let network = crate::network::Network::mlp(&[16, 12, 4])?;
        let trainer = crate::train::Trainer { epochs: 8, batch_size: 64, ..Default::default() };
        let models = trainer.train(&network, &data, &[0, 1])?.models;
        // Everything from nothing, in f64 and without the crate's forward pass.
        let double = |tensor: &tch::Tensor| tensor.to_kind(tch::Kind::Double);
        let (x, y) = (double(data.test.images()).flatten(1, -1), data.test.labels());
        let sets = [0, 1].map(|model: usize| models[model].params.tensors().iter().map(double).collect::<Vec<_>>());
        let loss = |t: f64| {
            let w: Vec<tch::Tensor> = sets[0].iter().zip(&sets[1]).map(|(a, b)| a * (1.0 - t) + b * t).collect();
            let logits = (x.matmul(&w[0].tr()) + &w[1]).relu().matmul(&w[2].tr()) + &w[3];
            let picked = logits.log_softmax(-1, tch::Kind::Double).gather(1, &y.unsqueeze(1), false);
            -picked.mean(tch::Kind::Double).double_value(&[])
        };
        let steps = 200;
        let (first, last) = (loss(0.0), loss(1.0));
        let above = (0..=steps).map(|step| f64::from(step) / f64::from(steps));
        let above = above.map(|t| (t, loss(t) - (1.0 - t) * first - t * last));
        let (position, barrier) = above.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        assert!(barrier > 0.05, "a path with a barrier is wanted: {barrier}");
        let walk = |points| Interpolation { points, ..Interpolation::default() }.curve(&models, &data);
        let fine = walk(steps as usize + 1)?;
        assert!((fine.loss_barrier() - barrier).abs() < 1e-5, "{} instead of {barrier}", fine.loss_barrier());
        assert!(
            (fine.barrier_position() - position).abs() < 0.011,
            "{} instead of {position}",
            fine.barrier_position()
        );
        let coarse = walk(25)?; // the default sees almost all of it
        assert!(coarse.loss_barrier() <= barrier + 1e-5 && coarse.loss_barrier() > 0.98 * barrier);
        Ok(())
    }
}
