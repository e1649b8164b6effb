//! Mixtures of one set of models, all set right alike: what a walk along lines, curves or planes evaluates at each place.

use std::cell::OnceCell;

use tch::Tensor;

use super::Repair;
use super::repair::{Moments, layer_moments, with_batch_statistics, with_variance};
use crate::data::{Dataset, Splits};
use crate::error::{Error, Result};
use crate::network::{Model, Network, Params, check_models};
use crate::train::positive;

/// Models that are mixed with one treatment of their statistics, on the same samples at every place.
pub(crate) struct Mixer<'a> {
    network: &'a Network,
    sets: Vec<&'a Params>,
    repair: Repair,
    data: Dataset,
    /// The statistics of each model's units, for [`Repair::Variance`].
    moments: OnceCell<Vec<Vec<Moments>>>,
}

impl<'a> Mixer<'a> {
    /// For a walk over at least `needed` models: all parts of the data are checked, and so many samples of the training
    /// data, drawn by the seed, set the statistics right.
    pub(crate) fn for_walk(
        operation: &'static str,
        (models, needed): (&'a [Model], usize),
        repair: Repair,
        (data, samples, seed): (&Splits, usize, u64),
    ) -> Result<Mixer<'a>> {
        check_models(operation, models, needed)?;
        positive("repair_samples", samples)?;
        models[0].network.check_splits(data)?;
        Mixer::over(models, repair, data.train.sample(samples, seed)?)
    }

    /// For one mixture: checks the models, and the data if the treatment needs them.
    pub(crate) fn new(models: &'a [Model], repair: Repair, data: &Dataset) -> Result<Mixer<'a>> {
        check_models("merging", models, 1)?;
        Mixer::over(models, repair, data.clone())
    }

    fn over(models: &'a [Model], repair: Repair, data: Dataset) -> Result<Mixer<'a>> {
        let network = &models[0].network;
        let repair = repair.done_to(network);
        if repair != Repair::Off {
            network.check_dataset(&data)?;
        }
        let sets = models.iter().map(|model| &model.params).collect();
        Ok(Mixer { network, sets, repair, data, moments: OnceCell::new() })
    }

    /// Whether statistics of the mixture are an average of the models'.
    pub(crate) fn averages_statistics(&self) -> bool {
        match self.repair {
            Repair::Off => self.network.has_batch_norm(),
            Repair::BatchNorm => false,
            Repair::Variance => true,
        }
    }

    /// The model at `Σ weights[i] θ_i`.
    pub(crate) fn at(&self, weights: &[f64]) -> Result<Model> {
        let _guard = tch::no_grad_guard();
        self.set_right(Params::weighted_sum(&self.sets, weights)?, weights)
    }

    /// The model with these parameters, which lie at `weights`, and its statistics set right.
    ///
    /// Beyond the models some weights are negative (a plane's margin); statistics are then averaged over the others.
    pub(crate) fn set_right(&self, mixture: Params, weights: &[f64]) -> Result<Model> {
        let _guard = tch::no_grad_guard();
        let positive: f64 = weights.iter().map(|weight| weight.max(0.0)).sum();
        let shares: Vec<f64> = weights.iter().map(|weight| weight.max(0.0) / positive.max(f64::MIN_POSITIVE)).collect();
        let params = match self.repair {
            Repair::Off => mixture.with_buffers(averaged_buffers(&self.sets, &shares)?),
            Repair::BatchNorm => with_batch_statistics(self.network, &mixture, &self.data)?,
            Repair::Variance => with_variance(self.network, mixture, self.moments()?, &shares, &self.data)?,
        };
        let hint = "give weights or models of a smaller size: their sum is too large for the number format";
        self.network.check_params(&params).map_err(|error| match error {
            Error::NonFinite { tensor, .. } => Error::NonFinite { tensor: format!("the mixture's {tensor}"), hint },
            other => other,
        })?;
        Ok(Model { network: self.network.clone(), params })
    }

    /// The samples that set statistics right.
    pub(crate) fn data(&self) -> &Dataset {
        &self.data
    }

    fn moments(&self) -> Result<&[Vec<Moments>]> {
        if self.moments.get().is_none() {
            let own = self.sets.iter().map(|params| layer_moments(self.network, params, &self.data));
            let _ = self.moments.set(own.collect::<Result<_>>()?);
        }
        Ok(self.moments.get().map_or(&[], Vec::as_slice))
    }
}

/// The models' buffers, averaged.
fn averaged_buffers(sets: &[&Params], shares: &[f64]) -> Result<Vec<Tensor>> {
    let average = |index: usize| {
        let mut sum = sets[0].buffers()[index].f_zeros_like()?;
        for (set, &share) in sets.iter().zip(shares).filter(|(_, share)| **share != 0.0) {
            let _ = sum.f_add_(&set.buffers()[index].f_mul_scalar(share)?)?;
        }
        Ok(sum)
    };
    (0..sets[0].buffers().len()).map(average).collect()
}
