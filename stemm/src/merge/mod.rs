//! Merging: one network whose parameters are the weighted mean of several, with its statistics set right.

mod fisher;
mod merging;
mod mixer;
mod reg_mean;
mod repair;
mod soup;

pub use fisher::Fisher;
pub use merging::Merging;
pub(crate) use mixer::Mixer;
pub use reg_mean::RegMean;
pub use repair::Repair;
pub(crate) use repair::{REPAIR_SAMPLES, layer_moments, with_batch_statistics};
pub use soup::greedy_soup;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::network::Model;

/// The mean of the models' parameters, `Σ θ_i / n`; running statistics of batch norm are recomputed on `data`, the
/// training data. Networks without batch norm do not look at the data.
///
/// # Errors
/// No models, models of different networks, NaN weights, data that do not fit.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 4, 4])?;
/// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let merged = merge(&[model.clone(), model.clone()], &data.train)?;
/// assert!(merged.params.get("layer1.weight") == model.params.get("layer1.weight"));
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn merge(models: &[Model], data: &Dataset) -> Result<Model> {
    let weights = vec![1.0 / models.len().max(1) as f64; models.len()];
    merge_weighted(models, &weights, Repair::default(), data)
}

/// The weighted sum of the models' parameters, `Σ weights[i] θ_i`, with its statistics set right on `data`; weights
/// that sum to 1 give a mean.
///
/// Without repair, running statistics of batch norm are averaged with the weights; [`Repair::Variance`] aims at the
/// average of the models' own statistics. Neither makes sense where a weight is negative.
///
/// # Errors
/// As [`merge`]; another number of weights than models; weights that are not finite, that make parameters infinite, or
/// that are negative where statistics are averaged.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let midpoint = merge_weighted(&[model(0)?, model(1)?], &[0.5, 0.5], Repair::Variance, &data.train)?;
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn merge_weighted(models: &[Model], weights: &[f64], repair: Repair, data: &Dataset) -> Result<Model> {
    let mixer = Mixer::new(models, repair, data)?;
    let wrong = |requirement| Error::Setting { setting: "weights", value: format!("{weights:?}"), requirement };
    if weights.len() != models.len() || !weights.iter().all(|weight| weight.is_finite()) {
        return Err(wrong("one finite number for each model"));
    }
    if mixer.averages_statistics() && !weights.iter().all(|&weight| weight >= 0.0) {
        return Err(wrong(
            "at least 0 where statistics are averaged: use `Repair::BatchNorm`, or `Off` without batch norm",
        ));
    }
    mixer.at(weights)
}
