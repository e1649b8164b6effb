//! The merged model against the number of models: the paper's central figure, with repeats over groups of models.
//!
//! The groups of one size have no model in common, so that their spread is that of independent merges; groups of different
//! sizes share models. Overlapping groups would look alike, and their spread would say nothing about other models.

use polars::prelude::DataFrame;
use rand::seq::SliceRandom;

use super::distinct;
use super::statistics::mean_and_error;
use super::{Hutchinson, ensemble};
use crate::align::{Aligner, Alignment};
use crate::chart::{Chart, Lines, Series};
use crate::data::Splits;
use crate::error::Result;
use crate::evaluate::loss_and_accuracy;
use crate::frame::{column, frame};
use crate::network::{Model, check_models};
use crate::notebook::{Bundle, Show};
use crate::progress::Progress;
use crate::rng::{Purpose, rng};
use crate::train::positive;

/// Settings of the study.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let models = (0..3).map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
/// let models = models.collect::<stemm::Result<Vec<_>>>()?;
/// let growth = MergeGrowth::default().run(&models, &[&WeightMatching::default()], &data)?;
/// assert_eq!(growth.frame().height(), 2 * 3); // one group of 2 and one of 3 models; naive, weight matching, ensemble
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MergeGrowth {
    /// Groups of models for each number, at most: there are as many as the models make without sharing one, four pairs and
    /// two groups of three of eight models, say. Each method gets the same.
    pub groups: usize,
    /// The largest number of models that are merged; all of them by default.
    pub most_models: usize,
    /// The sharpness of each merge on the test data, if it is wanted.
    pub sharpness: Option<Hutchinson>,
    /// Seed of the groups.
    pub seed: u64,
    /// Where progress is shown.
    pub progress: Progress,
}

impl Default for MergeGrowth {
    fn default() -> Self {
        MergeGrowth {
            groups: usize::MAX,
            most_models: usize::MAX,
            sharpness: None,
            seed: 0,
            progress: Progress::default(),
        }
    }
}

/// The method of the rows without a merge; there is one a group.
const ENSEMBLE: &str = "ensemble";

/// One merge.
#[derive(Clone, Debug, PartialEq)]
pub struct GrowthRow {
    /// Method of the alignment; `ensemble` for the mean of the probabilities.
    pub method: String,
    /// Number of models.
    pub n_models: usize,
    /// Which of the groups of this size.
    pub group: usize,
    /// Test loss, in nats.
    pub test_loss: f64,
    /// Test accuracy.
    pub test_accuracy: f64,
    /// Mean of the models' own test losses, in nats.
    pub models_loss: f64,
    /// Trace of the Hessian and its standard error, if it was wanted.
    pub trace: Option<(f64, f64)>,
}

/// Merges of 2, 3, ... models.
#[derive(Clone, Debug)]
pub struct Growth {
    /// One row a method, number and group.
    pub rows: Vec<GrowthRow>,
}

impl MergeGrowth {
    /// Merges random groups of 2, 3, ... models: unaligned, by each aligner, and as an ensemble.
    ///
    /// # Errors
    /// Fewer than two models, no groups, and whatever the aligners report.
    pub fn run(&self, models: &[Model], aligners: &[&dyn Aligner], data: &Splits) -> Result<Growth> {
        check_models("growth with the number of models", models, 2)?;
        positive("groups", self.groups)?;
        positive("most_models", self.most_models.saturating_sub(1))?;
        models[0].network.check_splits(data)?;
        let mut rng = rng(self.seed, Purpose::Landscape);
        let groups = |n_models: usize| self.groups.min(models.len() / n_models);
        let most = self.most_models.min(models.len());
        let merges = (2..=most).map(groups).sum::<usize>() * (aligners.len() + 2);
        let mut task = self.progress.task("merges", merges);
        let own: Vec<f64> = models
            .iter()
            .map(|model| Ok(loss_and_accuracy(&model.network, &model.params, &data.test)?.0))
            .collect::<Result<_>>()?;
        let mut rows = Vec::new();
        for n_models in 2..=most {
            let mut order: Vec<usize> = (0..models.len()).collect();
            order.shuffle(&mut rng);
            for (group, order) in order.chunks_exact(n_models).take(self.groups).enumerate() {
                let subset: Vec<Model> = order.iter().map(|&model| models[model].clone()).collect();
                let models_loss = order.iter().map(|&model| own[model]).sum::<f64>() / n_models as f64;
                let row = |method: &str, (test_loss, test_accuracy): (f64, f64), trace| {
                    let method = method.to_owned();
                    GrowthRow { method, n_models, group, test_loss, test_accuracy, models_loss, trace }
                };
                for aligner in std::iter::once(None).chain(aligners.iter().map(Some)) {
                    let alignment = match aligner {
                        None => Alignment::naive(&subset)?,
                        Some(aligner) => aligner.align(&subset, data)?,
                    };
                    let merged = alignment.merge(&subset, &data.train)?;
                    let quality = loss_and_accuracy(&merged.network, &merged.params, &data.test)?;
                    let trace = self.sharpness.as_ref().map(|probe| {
                        let estimate = probe.traces(&[("merged", &merged)], &data.test)?.estimates.remove(0);
                        Ok::<_, crate::Error>((estimate.mean(), estimate.standard_error()))
                    });
                    rows.push(row(&alignment.method, quality, trace.transpose()?));
                    task.step(|| format!("{} of {n_models}: loss {:.4}", alignment.method, quality.0))?;
                }
                rows.push(row(ENSEMBLE, ensemble(&subset, &data.test)?, None));
                task.step(String::new)?;
            }
        }
        Ok(Growth { rows })
    }
}

impl Growth {
    /// One row a method, number of models and group.
    pub fn frame(&self) -> DataFrame {
        let rows = &self.rows;
        frame([
            column("method", rows.iter().map(|row| row.method.as_str())),
            column("n_models", rows.iter().map(|row| row.n_models as u64)),
            column("group", rows.iter().map(|row| row.group as u64)),
            column("test_loss_nats", rows.iter().map(|row| row.test_loss)),
            column("test_accuracy", rows.iter().map(|row| row.test_accuracy)),
            column("models_loss_nats", rows.iter().map(|row| row.models_loss)),
            column("hessian_trace", rows.iter().map(|row| row.trace.map(|trace| trace.0))),
            column("hessian_trace_error", rows.iter().map(|row| row.trace.map(|trace| trace.1))),
        ])
    }

    /// Test loss against the number of models: mean over the groups, with 95 % confidence bands where there are several.
    pub fn chart(&self) -> Chart {
        let models =
            self.series("mean of the models", |row| Some(row.models_loss), |row| row.method == ENSEMBLE).dashed();
        let series = self
            .methods()
            .into_iter()
            .map(|method| self.series(&method, |row| Some(row.test_loss), |row| row.method == method));
        let title = "Merged models";
        Lines::new(title, "models", "test loss (nats)").series(series.chain([models])).log_y().into()
    }

    /// The sharpness of the merges against the number of models, with 95 % confidence bands where there are several groups;
    /// empty unless it was wanted.
    pub fn sharpness_chart(&self) -> Chart {
        let measured = |method: &String| self.rows.iter().any(|row| row.method == *method && row.trace.is_some());
        let series = self
            .methods()
            .into_iter()
            .filter(measured)
            .map(|method| self.series(&method, |row| row.trace.map(|trace| trace.0), |row| row.method == method));
        let title = "Sharpness";
        Lines::new(title, "models", "Hessian trace").series(series).into()
    }

    fn methods(&self) -> Vec<String> {
        distinct(self.rows.iter().map(|row| row.method.clone()))
    }

    fn series(&self, name: &str, value: fn(&GrowthRow) -> Option<f64>, wanted: impl Fn(&GrowthRow) -> bool) -> Series {
        let most = self.rows.iter().map(|row| row.n_models).max().unwrap_or(0);
        let mut points = Vec::new();
        let mut band = Vec::new();
        for n in 2..=most {
            let own = self.rows.iter().filter(|row| row.n_models == n && wanted(row));
            let values: Vec<f64> = own.filter_map(value).collect();
            let (mean, ends) = mean_and_band(&values);
            points.push((n as f64, mean));
            band.push(ends);
        }
        Series::new(name, points).band(band)
    }
}

impl Show for Growth {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), "losses in nats")
    }
}

/// Mean of some values and the ends of its 95 % confidence band, by Student's distribution: NaN, which charts leave out, for a single
/// one, whose error nobody knows.
///
/// ```
/// let (mean, (low, high)) = stemm::analysis::mean_and_band(&[1.0, 2.0, 3.0]);
/// assert!(mean == 2.0 && (high - low - 4.968).abs() < 1e-3); // 2 · 4.303 · 1/√3
/// ```
pub fn mean_and_band(values: &[f64]) -> (f64, (f64, f64)) {
    let (mean, error) = mean_and_error(values);
    let half = quantile(values.len()) * error;
    (mean, (mean - half, mean + half))
}

/// Half the width of a 95 % confidence band for the mean of `n` values, in standard errors.
fn quantile(n: usize) -> f64 {
    use statrs::distribution::{ContinuousCDF, StudentsT};
    StudentsT::new(0.0, 1.0, (n.max(2) - 1) as f64).map_or(f64::NAN, |student| student.inverse_cdf(0.975))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::WeightMatching;
    use crate::data::blobs;
    use crate::merge::merge;
    use crate::train::Trainer;
    use tch::Device;

    #[test]
    fn each_row_is_the_merge_of_its_subset() -> Result<()> {
        let data = blobs(0, Device::Cpu)?;
        let network = crate::network::Network::mlp(&[16, 12, 4])?;
        let trainer = Trainer { epochs: 4, batch_size: 64, ..Trainer::default() };
        let models = trainer.train(&network, &data, &[0, 1, 2])?.models;
        let settings = MergeGrowth { sharpness: Some(Hutchinson::default()), ..MergeGrowth::default() };
        let growth = settings.run(&models, &[&WeightMatching::default()], &data)?;
        assert_eq!(growth.rows.len(), 2 * 3); // one group of two, and one of three
        let loss = |model: &Model| Ok::<_, crate::Error>(loss_and_accuracy(&network, &model.params, &data.test)?.0);
        let rows =
            |method: &'static str, n| growth.rows.iter().filter(move |row| row.method == method && row.n_models == n);
        // All three models.
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-5, "{found}, {expected}");
        let own: Vec<f64> = models.iter().map(loss).collect::<Result<_>>()?;
        let whole = loss(&merge(&models, &data.train)?)?;
        let together = ensemble(&models, &data.test)?.0;
        for (naive, voted) in rows("naive", 3).zip(rows(ENSEMBLE, 3)) {
            close(naive.test_loss, whole);
            close(voted.test_loss, together);
            close(naive.models_loss, own.iter().sum::<f64>() / 3.0);
        }
        // Two of three: whatever the pair, the row is one of the three possible ones.
        let mut pairs = Vec::new();
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let pair = [models[a].clone(), models[b].clone()];
            pairs.push((loss(&merge(&pair, &data.train)?)?, (own[a] + own[b]) / 2.0));
        }
        for row in rows("naive", 2) {
            let fits =
                |&(merged, mean): &(f64, f64)| (row.test_loss - merged).abs() + (row.models_loss - mean).abs() < 1e-5;
            assert!(pairs.iter().any(fits), "{row:?}, {pairs:?}");
        }
        let trace = |row: &GrowthRow| row.trace.is_some_and(|(trace, error)| trace.is_finite() && error > 0.0);
        assert!(growth.rows.iter().all(|row| (row.method == ENSEMBLE) != trace(row)), "all but ensembles have a trace");
        let svg = growth.chart().beside(growth.sharpness_chart()).svg()?;
        assert!(svg.contains("weight matching") && svg.contains("ensemble") && svg.contains("Hessian trace"));
        Ok(())
    }

    #[test]
    fn a_series_is_the_mean_of_the_groups_of_its_method_with_its_confidence_band() {
        let row = |method: &str, n_models, test_loss| GrowthRow {
            method: method.to_owned(),
            n_models,
            group: 0,
            test_loss,
            test_accuracy: 0.0,
            models_loss: 0.0,
            trace: None,
        };
        let rows = [("a", 2, 1.0), ("b", 2, 9.0), ("a", 2, 5.0), ("a", 3, 7.0), ("b", 3, 9.0)];
        let growth = Growth { rows: rows.map(|(method, n, loss)| row(method, n, loss)).into() };
        let found = growth.series("a", |row| Some(row.test_loss), |row| row.method == "a");
        let (half, nan) = (2.0 * quantile(2), f64::NAN); // 1 and 5 have mean 3 and standard error 2
        let expected = Series::new("a", vec![(2.0, 3.0), (3.0, 7.0)]).band(vec![(3.0 - half, 3.0 + half), (nan, nan)]);
        assert_eq!(format!("{found:?}"), format!("{expected:?}"));
    }

    #[test]
    fn confidence_bands_have_students_width() {
        assert!((quantile(2) - 12.706_205).abs() < 1e-4); // t table: one degree of freedom, 0.975
        assert!((quantile(3) - 4.302_653).abs() < 1e-4);
        assert!((quantile(30) - 2.045_230).abs() < 1e-4);
    }
}
