//! What units do on data: how aligned units of two models correlate, and how much the units of the networks between two
//! models vary, which falls in deep layers (variance collapse; Jordan et al. 2023) and is what repair restores.

use polars::prelude::DataFrame;
use tch::{Kind, Tensor};

use super::evenly_spaced;
use super::statistics::mean_and_error;
use crate::chart::{Chart, Heatmap, Lines, Series};
use crate::covariance::Covariance;
use crate::data::{Dataset, Splits};
use crate::error::{Error, Result};
use crate::frame::{column, frame};
use crate::merge::{Mixer, REPAIR_SAMPLES, Repair, layer_moments};
use crate::network::{Memory, Model, check_models};
use crate::notebook::{Bundle, Show};
use crate::train::{Precision, within};

/// Correlations between the units of one layer of two models.
#[derive(Debug)]
pub struct UnitCorrelation {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the layer.
    pub layer: String,
    /// Name of the data set.
    pub data: String,
    /// Pearson's correlation of unit `i` of the first model with unit `j` of the second, `[units, units]`, f64; 0 for units
    /// that never vary.
    pub matrix: Tensor,
}

/// Correlates the outputs of every unit of a hidden linear or convolution layer (before its activation, after its batch norm) of two models
/// over a data set; the positions of a channel count as samples.
///
/// # Errors
/// Another number of models than two, models of different networks, no layer of that name.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let same = unit_correlation("twice the same", "layer1", &[model.clone(), model], &data.test)?;
/// assert!(same.aligned().iter().all(|&correlation| (correlation - 1.0).abs() < 1e-6));
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn unit_correlation(label: &str, layer: &str, models: &[Model], data: &Dataset) -> Result<UnitCorrelation> {
    let [first, second] = exactly_two("a correlation of units", models)?;
    let outputs = first.network.unit_outputs()?;
    let wanted = outputs.iter().position(|own| own.layer == layer).ok_or_else(|| Error::Setting {
        setting: "layer",
        value: layer.to_owned(),
        requirement: "the name of a linear or convolution layer of the network (`network.frame()` lists them)",
    })?;
    let _guard = tch::no_grad_guard();
    let mut together = Covariance::new(vec![(0, 1)], Precision::F32);
    for batch in first.network.chunks(data, Memory::Forward, usize::MAX)? {
        let (x, _) = batch?;
        let output = |model: &Model| -> Result<Tensor> {
            let own = model.network.outputs(&model.params, &x, &outputs[wanted..=wanted])?;
            Ok(own[0].f_to_kind(Kind::Double)?)
        };
        together.add(&[output(first)?, output(second)?])?;
    }
    let matrix = together.correlation(0)?.ok_or(Error::Empty { what: data.name().to_owned() })?;
    let (label, layer, data) = (label.to_owned(), layer.to_owned(), data.name().to_owned());
    Ok(UnitCorrelation { label, layer, data, matrix })
}

/// The two models that there must be.
pub(super) fn exactly_two<'a>(operation: &'static str, models: &'a [Model]) -> Result<&'a [Model; 2]> {
    check_models(operation, models, 2)?;
    let requirement = "exactly two: choose them from the list";
    let wrong = || Error::Setting { setting: "models", value: models.len().to_string(), requirement };
    models.try_into().map_err(|_| wrong())
}

/// Units that a heat map can show.
const SHOWN: usize = 24;

impl UnitCorrelation {
    /// The correlation of each unit with the unit in its place in the other model.
    pub fn aligned(&self) -> Vec<f64> {
        Vec::try_from(self.matrix.diag(0)).unwrap_or_default()
    }

    /// The highest correlation of each unit with any unit of the other model.
    pub fn best(&self) -> Vec<f64> {
        Vec::try_from(self.matrix.amax([1i64].as_slice(), false)).unwrap_or_default()
    }

    /// One row a unit: its correlation with the unit in its place, and the highest with any.
    pub fn frame(&self) -> DataFrame {
        let (aligned, best) = (self.aligned(), self.best());
        frame([
            column("label", aligned.iter().map(|_| self.label.as_str())),
            column("layer", aligned.iter().map(|_| self.layer.as_str())),
            column("data_set", aligned.iter().map(|_| self.data.as_str())),
            column("unit", 0..aligned.len() as u64),
            column("correlation", aligned),
            column("highest_correlation", best),
        ])
    }

    /// The matrix, of the first 24 units: where alignment has found partners, the diagonal is dark.
    pub fn chart(&self) -> Chart {
        let shown = SHOWN.min(self.matrix.size()[0] as usize) as i64;
        let value = |row, column| Some(self.matrix.double_value(&[row, column]).max(0.0));
        let values = (0..shown).map(|row| (0..shown).map(|column| value(row, column)).collect()).collect();
        // Every fourth unit named: more would overlap.
        let names = (0..shown).map(|unit| if unit % 4 == 0 { unit.to_string() } else { String::new() }).collect();
        Heatmap::new(format!("Correlation, {}, {}", self.layer, self.label), names, values).highest(1.0).into()
    }

    /// The correlations of all units with the units in their places, from the highest on, beside those of `others`: before
    /// and after alignment, say; dashed, what the best partners in the other model would give.
    pub fn aligned_chart(&self, others: &[&UnitCorrelation]) -> Chart {
        let ranked = |name: &str, mut values: Vec<f64>| {
            values.sort_by(|a, b| b.total_cmp(a));
            let points = (1..).zip(values).map(|(rank, value)| (f64::from(rank), value)).collect();
            Series::new(name, points).without_dots()
        };
        let all = std::iter::once(self).chain(others.iter().copied());
        let series =
            all.map(|own| ranked(&own.label, own.aligned())).chain([ranked("best partner", self.best()).dashed()]);
        let title = format!("Correlation of units with their partners, {}", self.layer);
        Lines::new(title, "unit, by rank", "correlation").series(series).into()
    }
}

impl Show for UnitCorrelation {
    fn look(&self) -> Bundle {
        let (aligned, _) = mean_and_error(&self.aligned());
        let (best, _) = mean_and_error(&self.best());
        let remark =
            format!("{}, {}: mean correlation {aligned:.3}; of the best partners {best:.3}", self.label, self.layer);
        Bundle::table(&self.frame(), &remark)
    }
}

/// How much the units of the networks between two models vary, as a share of what the ends' vary.
#[derive(Clone, Debug)]
pub struct Collapse {
    /// What the models are, for titles.
    pub label: String,
    /// Name of the data set.
    pub data: String,
    /// What was done to the statistics.
    pub repair: Repair,
    /// Names of the hidden layers, in order.
    pub layers: Vec<String>,
    /// Places between the models, from 0 to 1.
    pub places: Vec<f64>,
    /// `ratios[place][layer]`: mean over units of `σ(t) / ((1-t) σ(0) + t σ(1))`.
    pub ratios: Vec<Vec<f64>>,
}

/// The standard deviation of each hidden unit along the line between two models, against the mean of the ends', on at most
/// 5,000 samples of the training data, drawn at random.
///
/// # Errors
/// Another number of models than two, models of different networks, fewer than two points.
pub fn variance_collapse(
    label: &str,
    models: &[Model],
    repair: Repair,
    points: usize,
    data: &Splits,
) -> Result<Collapse> {
    let [first, _] = exactly_two("variance collapse", models)?;
    within("points", points, 2)?;
    let network = &first.network;
    let mixer = Mixer::for_walk("variance collapse", (models, 2), repair, (data, REPAIR_SAMPLES, 0))?;
    let hidden: Vec<(usize, String)> = network
        .weight_layers()?
        .into_iter()
        .enumerate()
        .filter(|(_, layer)| layer.hidden)
        .map(|(position, layer)| (position, layer.name))
        .collect();
    // Every place is treated alike, the ends too.
    let at = |t: f64| layer_moments(network, &mixer.at(&[1.0 - t, t])?.params, mixer.data());
    let (start, end) = (at(0.0)?, at(1.0)?);
    let places: Vec<f64> = evenly_spaced(0.0, 1.0, points).collect();
    let ratios = places.iter().map(|&t| {
        let here = at(t)?;
        let ratio = |(position, _): &(usize, String)| -> Result<f64> {
            let ends = start[*position].std.f_mul_scalar(1.0 - t)?.f_add(&end[*position].std.f_mul_scalar(t)?)?;
            // Units that are dead at both ends have no ratio.
            let alive = ends.f_gt(1e-9)?;
            let ratio = here[*position].std.f_div(&ends)?.f_masked_select(&alive)?;
            Ok(ratio.f_mean(Kind::Double)?.f_double_value(&[])?)
        };
        hidden.iter().map(ratio).collect()
    });
    let ratios = ratios.collect::<Result<_>>()?;
    let layers = hidden.into_iter().map(|(_, name)| name).collect();
    let (label, data) = (label.to_owned(), data.train.name().to_owned());
    Ok(Collapse { label, data, repair: repair.done_to(network), layers, places, ratios })
}

impl Collapse {
    /// One row a place and layer.
    pub fn frame(&self) -> DataFrame {
        let rows: Vec<(f64, &str, f64)> = self
            .places
            .iter()
            .zip(&self.ratios)
            .flat_map(|(&t, ratios)| {
                self.layers.iter().zip(ratios).map(move |(layer, &ratio)| (t, layer.as_str(), ratio))
            })
            .collect();
        frame([
            column("label", rows.iter().map(|_| self.label.as_str())),
            column("data_set", rows.iter().map(|_| self.data.as_str())),
            column("repair", rows.iter().map(|_| self.repair.to_string())),
            column("t", rows.iter().map(|row| row.0)),
            column("layer", rows.iter().map(|row| row.1)),
            column("std_ratio", rows.iter().map(|row| row.2)),
        ])
    }

    /// The ratio along the line, one curve a layer.
    pub fn chart(&self) -> Chart {
        let series = self.layers.iter().enumerate().map(|(layer, name)| {
            let points = self.places.iter().zip(&self.ratios).map(|(&t, ratios)| (t, ratios[layer])).collect();
            Series::new(name.clone(), points)
        });
        let repair = match self.repair {
            Repair::Off => String::new(),
            repair => format!(", repair: {repair}"),
        };
        let title = format!("Variance, {}{repair}", self.label);
        Lines::new(title, "position t between two models", "σ relative to the ends").series(series).into()
    }
}

impl Show for Collapse {
    fn look(&self) -> Bundle {
        Bundle::table(&self.frame(), &format!("{} on {}", self.label, self.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::align::{Permutation, Permutations};
    use crate::data::blobs;
    use crate::network::Network;
    use tch::Device;

    #[test]
    fn correlations_are_pearsons_and_follow_a_permutation() -> Result<()> {
        let data = blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 6, 4])?;
        let model = Model::new(network.clone(), network.init(1, Device::Cpu)?)?;
        let turn = Permutations(vec![Permutation::new(vec![1, 2, 3, 4, 5, 0])?]);
        let turned = Model { params: turn.apply(&network.permutation_spec(), &model.params)?, ..model.clone() };
        let found = unit_correlation("turned", "layer1", &[model.clone(), turned], &data.test)?;
        let weight = model.params.tensors()[0].to_kind(Kind::Double);
        let outputs = data.test.images().to_kind(Kind::Double).matmul(&weight.tr());
        let exact = outputs.tr().corrcoef(); // of the model with itself; the bias does not matter
        for unit in 0..6 {
            for other in 0..6 {
                let expected = exact.double_value(&[unit, (other + 1) % 6]);
                assert!((found.matrix.double_value(&[unit, other]) - expected).abs() < 1e-5, "{unit} {other}");
            }
        }
        assert!(found.best().iter().all(|&best| (best - 1.0).abs() < 1e-5));
        let frame = found.frame();
        let column = |name: &str| frame.column(name).unwrap().f64().unwrap().iter().flatten().collect::<Vec<_>>();
        let diagonal: Vec<f64> = (0..6).map(|unit| found.matrix.double_value(&[unit, unit])).collect();
        assert_eq!((column("correlation"), found.aligned()), (diagonal.clone(), diagonal));
        assert_eq!((column("highest_correlation").len(), column("highest_correlation")), (6, found.best()));
        assert!(unit_correlation("", "none", &[model.clone(), model], &data.test).is_err());
        Ok(())
    }

    #[test]
    fn units_vary_less_between_models_and_repair_restores_them() -> Result<()> {
        let data = blobs(0, Device::Cpu)?;
        let network = Network::mlp(&[16, 40, 30, 4])?;
        let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
        let models = [model(0)?, model(1)?];
        let plain = variance_collapse("plain", &models, Repair::Off, 3, &data)?;
        assert_eq!(plain.layers.len(), 2);
        assert!(plain.ratios[0].iter().chain(&plain.ratios[2]).all(|ratio| (ratio - 1.0).abs() < 1e-6));
        assert!(plain.ratios[1].iter().all(|&ratio| ratio < 0.95), "{:?}", plain.ratios[1]);
        let repaired = variance_collapse("repaired", &models, Repair::Variance, 3, &data)?;
        assert!(repaired.ratios[1].iter().all(|ratio| (ratio - 1.0).abs() < 1e-3), "{:?}", repaired.ratios[1]);
        Ok(())
    }
}
