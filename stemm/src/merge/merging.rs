//! The ways in which aligned models become one: under one name and one call, so that they can be compared.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Fisher, RegMean, greedy_soup, merge};
use crate::data::Splits;
use crate::error::Result;
use crate::network::Model;

/// How aligned models become one. Running statistics of batch norm are recomputed on the training data by each.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let models = [model(0)?, model(1)?];
/// for merging in [Merging::Mean, Merging::Fisher(Fisher::default()), Merging::GreedySoup] {
///     println!("{merging}: {:.3}", merging.merge(&models, &data)?.evaluate(&data.test)?.loss);
/// }
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Merging {
    /// The plain mean, as [`merge`](super::merge).
    Mean,
    /// The mean weighted by how much each model's outputs depend on each parameter.
    Fisher(Fisher),
    /// Linear maps that on the data come nearest to those of the models.
    RegMean(RegMean),
    /// The mean of those models that do not lower its held-out accuracy, the best first.
    GreedySoup,
}

impl fmt::Display for Merging {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Merging::Mean => "mean",
            Merging::Fisher(_) => "fisher",
            Merging::RegMean(_) => "regmean",
            Merging::GreedySoup => "greedy soup",
        })
    }
}

impl Merging {
    /// Refuses settings out of range, before there are any models.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Merging::Fisher(fisher) => fisher.check(),
            Merging::RegMean(reg_mean) => reg_mean.check(),
            Merging::Mean | Merging::GreedySoup => Ok(()),
        }
    }

    /// One model of several that are aligned.
    ///
    /// # Errors
    /// No models, models of different networks, NaN weights, data that do not fit, settings out of range.
    pub fn merge(&self, models: &[Model], data: &Splits) -> Result<Model> {
        match self {
            Merging::Mean => merge(models, &data.train),
            Merging::Fisher(fisher) => fisher.merge(models, &data.train),
            Merging::RegMean(reg_mean) => reg_mean.merge(models, &data.train),
            Merging::GreedySoup => greedy_soup(models, data),
        }
    }
}
