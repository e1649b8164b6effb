//! Loss on the simplex that several models span: at random mixtures of all, and over the triangle of three.
//!
//! Models are linearly connected as a whole if the loss at `Σ λ_i θ_i` is nowhere above `Σ λ_i L(θ_i)`, for all weights
//! `λ` that are at least 0 and sum to 1. Mixtures are drawn uniformly, `λ ~ Dirichlet(1, ..., 1)`.

use polars::prelude::DataFrame;

use crate::align::Mixing;
use crate::chart::{Chart, Contours, Lines, Series};
use crate::data::{Dataset, Part, Splits};
use crate::error::{Error, Result};
use crate::evaluate::{by_loss, ensemble_loss_and_accuracy, loss_and_accuracy};
use crate::frame::{column, frame};
use crate::merge::{Mixer, REPAIR_SAMPLES, Repair};
use crate::network::{Model, Params, check_models};
use crate::notebook::{Bundle, Show};
use crate::progress::{Progress, Task};
use crate::rng::{Purpose, rng};
use crate::train::within;

/// Loss (nats) and accuracy of the mean of the models' probabilities: what merging is measured against.
///
/// # Errors
/// No models, models of different networks, data that do not fit.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let (loss, accuracy) = ensemble(&[model(0)?, model(1)?], &data.test)?;
/// assert!(loss > 0.0 && accuracy <= 1.0);
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn ensemble(models: &[Model], data: &Dataset) -> Result<(f64, f64)> {
    check_models("an ensemble", models, 1)?;
    let sets: Vec<&Params> = models.iter().map(|model| &model.params).collect();
    ensemble_loss_and_accuracy(&models[0].network, &sets, data)
}

/// Settings of the walk over the simplex.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let models = (0..3).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
/// let models = models.collect::<stemm::Result<Vec<_>>>()?;
/// let losses = Simplex { samples: 10, ..Simplex::default() }.losses("untrained", &models, &data)?;
/// assert!(losses.worst().above_ends() >= losses.centre.above_ends());
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Simplex {
    /// Random mixtures.
    pub samples: usize,
    /// Steps along each side of the triangle of three models.
    pub steps: usize,
    /// The data on which loss and accuracy are taken.
    pub part: Part,
    /// How the statistics of the mixtures are set right, the models' own as all others, with the training data.
    pub repair: Repair,
    /// Samples of the training data that set statistics right, at most: drawn at random, the same ones at every place. The
    /// cost is a pass over them at each place (`Repair::Variance`: one for each layer).
    pub repair_samples: usize,
    /// Seed of the mixtures and of these samples.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for Simplex {
    fn default() -> Self {
        Simplex {
            samples: 100,
            steps: 12,
            part: Part::default(),
            repair: Repair::default(),
            repair_samples: REPAIR_SAMPLES,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// A mixture of models.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// One weight a model; they sum to 1.
    pub weights: Vec<f64>,
    /// Loss of the mixture, in nats.
    pub loss: f64,
    /// Accuracy of the mixture.
    pub accuracy: f64,
    /// The same combination of the models' own losses, in nats.
    pub ends_loss: f64,
}

impl Mixture {
    /// How far the loss is above that of the models, in nats: the barrier at this place.
    pub fn above_ends(&self) -> f64 {
        self.loss - self.ends_loss
    }
}

/// Loss at random mixtures.
#[derive(Clone, Debug)]
pub struct SimplexLosses {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// What was done to the statistics at every place, the models' own among them.
    pub repair: Repair,
    /// The models' own losses, in nats.
    pub ends: Vec<f64>,
    /// The mixture with equal weights: the merged model.
    pub centre: Mixture,
    /// The random mixtures.
    pub mixtures: Vec<Mixture>,
}

/// Loss over the triangle of three models.
#[derive(Clone, Debug)]
pub struct Ternary {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// What was done to the statistics at every place.
    pub repair: Repair,
    /// Rows by the weight of the third model from 0 to 1, each by that of the second from 0 to what is left.
    pub rows: Vec<Vec<Mixture>>,
}

impl Simplex {
    /// Loss and accuracy at random mixtures of all models and at their centre.
    ///
    /// # Errors
    /// Fewer than two models, models of different networks, no samples.
    pub fn losses(&self, label: &str, models: &[Model], data: &Splits) -> Result<SimplexLosses> {
        within("samples", self.samples, 1)?;
        let mut walk = self.walk(format!("simplex {label}"), (models, 2), data, self.samples + 1)?;
        let n = models.len();
        let mut rng = rng(self.seed, Purpose::Landscape);
        let centre = walk.mixture(vec![1.0 / n as f64; n])?;
        let mixtures = (0..self.samples).map(|_| walk.mixture(Mixing::Dirichlet.draw(n, &mut rng)));
        Ok(SimplexLosses {
            mixtures: mixtures.collect::<Result<_>>()?,
            label: label.to_owned(),
            data: data.part(self.part).name().to_owned(),
            repair: self.repair.done_to(&models[0].network),
            ends: walk.ends,
            centre,
        })
    }

    /// Loss and accuracy on an even lattice over the triangle of three models.
    ///
    /// # Errors
    /// Another number of models than three, no steps.
    pub fn ternary(&self, label: &str, models: &[Model], data: &Splits) -> Result<Ternary> {
        within("steps", self.steps, 1)?;
        if models.len() > 3 {
            let requirement = "exactly three; choose them from the list";
            return Err(Error::Setting { setting: "models", value: models.len().to_string(), requirement });
        }
        let steps = self.steps;
        let mut walk = self.walk(format!("triangle {label}"), (models, 3), data, (steps + 1) * (steps + 2) / 2)?;
        let rows = (0..=steps).map(|third| {
            let row = (0..=steps - third).map(|second| {
                let share = |count: usize| count as f64 / steps as f64;
                let weights = vec![share(steps - third - second), share(second), share(third)];
                walk.mixture(weights)
            });
            row.collect::<Result<_>>()
        });
        let rows = rows.collect::<Result<_>>()?;
        let (label, data) = (label.to_owned(), data.part(self.part).name().to_owned());
        Ok(Ternary { label, data, repair: self.repair.done_to(&models[0].network), rows })
    }

    /// What every mixture of these models needs; checks models and data.
    fn walk<'a>(
        &self,
        label: String,
        (models, needed): (&'a [Model], usize),
        data: &'a Splits,
        places: usize,
    ) -> Result<Walk<'a>> {
        let samples = (data, self.repair_samples, self.seed);
        let mixer = Mixer::for_walk("a simplex", (models, needed), self.repair, samples)?;
        let mut walk =
            Walk { mixer, part: data.part(self.part), ends: Vec::new(), task: self.progress.task(label, places) };
        for model in 0..models.len() {
            let mut corner = vec![0.0; models.len()];
            corner[model] = 1.0;
            let model = walk.mixer.at(&corner)?;
            walk.ends.push(loss_and_accuracy(&model.network, &model.params, walk.part)?.0);
        }
        Ok(walk)
    }
}

/// A walk over the simplex of some models.
struct Walk<'a> {
    mixer: Mixer<'a>,
    part: &'a Dataset,
    /// The models' own losses, their statistics treated as everywhere.
    ends: Vec<f64>,
    task: Task,
}

impl Walk<'_> {
    fn mixture(&mut self, weights: Vec<f64>) -> Result<Mixture> {
        let model = self.mixer.at(&weights)?;
        let (loss, accuracy) = loss_and_accuracy(&model.network, &model.params, self.part)?;
        self.task.step(|| format!("loss {loss:.4}"))?;
        let ends_loss = weights.iter().zip(&self.ends).map(|(weight, end)| weight * end).sum();
        Ok(Mixture { weights, loss, accuracy, ends_loss })
    }
}

/// One row a mixture, with a column for the weight of each model.
fn mixture_frame(label: &str, data: &str, repair: Repair, mixtures: &[&Mixture]) -> DataFrame {
    let models = mixtures.first().map_or(0, |mixture| mixture.weights.len());
    let names: Vec<String> = (0..models).map(|model| format!("weight_{model}")).collect();
    let weights = names.iter().enumerate().map(|(model, name)| column(name, mixtures.iter().map(|m| m.weights[model])));
    let head = [
        column("label", mixtures.iter().map(|_| label)),
        column("data_set", mixtures.iter().map(|_| data)),
        column("repair", mixtures.iter().map(|_| repair.to_string())),
        column("loss_nats", mixtures.iter().map(|mixture| mixture.loss)),
        column("accuracy", mixtures.iter().map(|mixture| mixture.accuracy)),
        column("ends_loss_nats", mixtures.iter().map(|mixture| mixture.ends_loss)),
        column("above_ends_nats", mixtures.iter().map(|mixture| mixture.above_ends())),
    ];
    frame(head.into_iter().chain(weights))
}

impl SimplexLosses {
    /// The mixture whose loss is furthest above that of the models, the centre among them.
    pub fn worst(&self) -> &Mixture {
        let all = std::iter::once(&self.centre).chain(&self.mixtures);
        all.max_by(|a, b| by_loss(a.above_ends(), b.above_ends())).unwrap_or(&self.centre)
    }

    /// One row a random mixture.
    pub fn frame(&self) -> DataFrame {
        mixture_frame(&self.label, &self.data, self.repair, &self.mixtures.iter().collect::<Vec<_>>())
    }

    /// How the loss above the models is distributed over the simplex, beside that of `others`.
    pub fn chart_beside(&self, others: &[&SimplexLosses]) -> Chart {
        let all = std::iter::once(self).chain(others.iter().copied());
        let series = all.map(|losses| {
            let mut above: Vec<f64> = losses.mixtures.iter().map(Mixture::above_ends).collect();
            above.sort_by(|&a, &b| by_loss(a, b));
            let count = above.len() as f64;
            let points = (1..).zip(above).map(|(rank, loss)| (loss, f64::from(rank) / count)).collect();
            Series::new(losses.label.clone(), points).without_dots()
        });
        let title = format!("Loss over the simplex of {} models ({})", self.ends.len(), self.data);
        Lines::new(title, "loss above that of the models (nats)", "share of mixtures below").series(series).into()
    }

    /// How the loss above the models is distributed over the simplex.
    pub fn chart(&self) -> Chart {
        self.chart_beside(&[])
    }
}

impl Show for SimplexLosses {
    fn look(&self) -> Bundle {
        let (centre, worst) = (self.centre.above_ends(), self.worst().above_ends());
        let remark = format!(
            "{} on {}, repair: {}; loss above the models': centre {centre:.4}, worst {worst:.4} nats",
            self.label, self.data, self.repair
        );
        Bundle::table(&self.frame(), &remark)
    }
}

impl Ternary {
    /// One row a place of the lattice.
    pub fn frame(&self) -> DataFrame {
        mixture_frame(&self.label, &self.data, self.repair, &self.rows.iter().flatten().collect::<Vec<_>>())
    }

    /// The loss over the triangle.
    pub fn chart(&self) -> Chart {
        let values = self.rows.iter().map(|row| row.iter().map(|mixture| mixture.loss).collect()).collect();
        let corners = ["model 0", "model 1", "model 2"].map(str::to_owned);
        Contours::triangle(format!("Loss (nats) between three models, {}", self.label), corners, values).into()
    }
}

impl Show for Ternary {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &format!("{} on {}", self.label, self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::blobs;
    use crate::merge::merge_weighted;
    use crate::network::Network;
    use tch::Device;

    fn three() -> Result<(Vec<Model>, Splits)> {
        let network = Network::mlp(&[16, 8, 4])?;
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
        Ok(((0..3).map(model).collect::<Result<_>>()?, blobs(0, Device::Cpu)?))
    }

    #[test]
    fn mixtures_lie_evenly_on_the_simplex_and_have_the_loss_of_the_weighted_sum() -> Result<()> {
        let (models, data) = three()?;
        let losses = Simplex { samples: 300, ..Simplex::default() }.losses("three", &models, &data)?;
        for model in 0..3 {
            // The weight of one of three models has mean 1/3 and variance 1/18.
            let mean = losses.mixtures.iter().map(|mixture| mixture.weights[model]).sum::<f64>() / 300.0;
            assert!((mean - 1.0 / 3.0).abs() < 4.0 * (1.0f64 / 18.0 / 300.0).sqrt(), "{mean}");
        }
        let own = |mixture: &Mixture| -> Result<f64> {
            let merged = merge_weighted(&models, &mixture.weights, Repair::Off, &data.train)?;
            Ok(loss_and_accuracy(&merged.network, &merged.params, &data.test)?.0)
        };
        assert_eq!(losses.mixtures[7].loss, own(&losses.mixtures[7])?);
        assert_eq!(losses.centre.weights, vec![1.0 / 3.0; 3]);
        let highest = losses.mixtures.iter().map(Mixture::above_ends).fold(losses.centre.above_ends(), f64::max);
        assert_eq!(losses.worst().above_ends(), highest);
        Ok(())
    }

    #[test]
    fn corners_of_the_triangle_are_the_models() -> Result<()> {
        let (models, data) = three()?;
        let ternary = Simplex { steps: 3, ..Simplex::default() }.ternary("three", &models, &data)?;
        let corners = [&ternary.rows[0][0], &ternary.rows[0][3], &ternary.rows[3][0]];
        for (corner, model) in corners.into_iter().zip(&models) {
            assert_eq!(corner.loss, loss_and_accuracy(&model.network, &model.params, &data.test)?.0);
            assert!(corner.above_ends().abs() < 1e-12);
        }
        assert_eq!(ternary.rows.iter().map(Vec::len).sum::<usize>(), 10);
        Ok(())
    }

    #[test]
    fn an_ensemble_of_one_is_the_model_and_of_several_is_no_worse_than_their_mean_loss() -> Result<()> {
        let (models, data) = three()?;
        let own = |model: &Model| Ok(loss_and_accuracy(&model.network, &model.params, &data.test)?.0);
        assert!((ensemble(&models[..1], &data.test)?.0 - own(&models[0])?).abs() < 1e-5);
        let mean = models.iter().map(own).sum::<Result<f64>>()? / 3.0;
        assert!(ensemble(&models, &data.test)?.0 < mean); // Jensen: -log is convex
        Ok(())
    }
}
