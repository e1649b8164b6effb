//! Merging: one network whose parameters are the weighted mean of several.

use crate::error::{Error, Result};
use crate::network::{Model, Params, check_models};

/// The mean of the models' parameters, `Σ θ_i / n`.
///
/// # Errors
/// No models, models of different networks, NaN weights.
///
/// ```
/// use stemm::prelude::*;
/// let network = Network::mlp(&[2, 4, 2])?;
/// let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
/// let merged = merge(&[model.clone(), model.clone()])?;
/// assert!(merged.params.get("layer1.weight") == model.params.get("layer1.weight"));
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn merge(models: &[Model]) -> Result<Model> {
    merge_weighted(models, &vec![1.0 / models.len().max(1) as f64; models.len()])
}

/// The weighted sum of the models' parameters, `Σ weights[i] θ_i`; weights that sum to 1 give a mean.
///
/// # Errors
/// As [`merge`]; another number of weights than models; weights that are not finite.
pub fn merge_weighted(models: &[Model], weights: &[f64]) -> Result<Model> {
    check_models("merging", models, 1)?;
    if weights.len() != models.len() || !weights.iter().all(|weight| weight.is_finite()) {
        let requirement = "one finite number for each model";
        return Err(Error::Setting { setting: "weights", value: format!("{weights:?}"), requirement });
    }
    let _guard = tch::no_grad_guard();
    let sets: Vec<&Params> = models.iter().map(|model| &model.params).collect();
    Ok(Model { network: models[0].network.clone(), params: Params::weighted_sum(&sets, weights)? })
}
