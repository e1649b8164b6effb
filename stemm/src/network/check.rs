//! Whether parameters are a network's.

use tch::{Kind, Tensor};

use super::layer::TensorPlan;
use super::{Network, Params};
use crate::error::{Error, Result};

impl Network {
    /// Checks that the parameters are this network's: names, shapes, one number format, finite values, no negative
    /// variance.
    pub fn check_params(&self, params: &Params) -> Result<()> {
        let (parameters, buffers) = self.tensor_plans();
        let count = parameters.len();
        let plans: Vec<TensorPlan> = parameters.into_iter().chain(buffers).collect();
        let (own, found): (Vec<&str>, Vec<&str>) =
            (plans.iter().map(|plan| plan.name.as_str()).collect(), params.iter().map(|(name, _)| name).collect());
        if own != found || count != params.tensors().len() {
            let error = Error::tensor_names(&own, &found);
            if matches!(&error, Error::TensorNames { missing, surplus } if missing.is_empty() && surplus.is_empty())
                && own.len() == found.len()
            {
                let requirement = "in the order of `Network::tensor_shapes`, running statistics apart as buffers";
                return Err(Error::Setting { setting: "parameters", value: found.join(", "), requirement });
            }
            return Err(error);
        }
        let kind = params.kind();
        for (plan, (_, tensor)) in plans.iter().zip(params.iter()) {
            if tensor.size() != plan.shape() {
                let hint = "load the parameters with the network they were saved with";
                let (tensor, expected, found) = (plan.name.clone(), plan.shape(), tensor.size());
                return Err(Error::ShapeMismatch { tensor, expected, found, hint });
            }
            let own = tensor.f_kind()?;
            if own != kind || !matches!(kind, Kind::Float | Kind::Double) {
                let expected = "Float or Double, the same for all tensors".to_owned();
                return Err(Error::NumberFormat { tensor: plan.name.clone(), found: format!("{own:?}"), expected });
            }
        }
        check_values(&plans, params)
    }
}

/// No value is NaN or infinite, and no variance negative; found out on the device, and read from it once.
fn check_values(plans: &[TensorPlan], params: &Params) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let tensors = || plans.iter().zip(params.iter()).map(|(plan, (_, tensor))| (plan, tensor));
    let variances = || tensors().filter(|(plan, _)| plan.variance);
    // A sum is finite only if every value is.
    let sums = tensors().map(|(_, tensor)| Ok(tensor.f_sum(Kind::Double)?));
    let lowest = variances().map(|(_, tensor)| Ok(tensor.f_min()?.f_to_kind(Kind::Double)?));
    let found = sums.chain(lowest).collect::<Result<Vec<Tensor>>>()?;
    if found.is_empty() {
        return Ok(());
    }
    let found = Vec::<f64>::try_from(Tensor::f_stack(&found, 0)?)?;
    let (sums, lowest) = found.split_at(plans.len());
    if let Some((plan, _)) = plans.iter().zip(sums).find(|(_, sum)| !sum.is_finite()) {
        return Err(Error::NonFinite { tensor: plan.name.clone(), hint: crate::error::RETRAIN });
    }
    match variances().zip(lowest).find(|(_, lowest)| **lowest < 0.0) {
        Some(((plan, _), &lowest)) => Err(Error::NegativeVariance { tensor: plan.name.clone(), lowest }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn parameters_in_another_order_are_refused_as_such() -> Result<()> {
        let network = Network::mlp(&[3, 3])?;
        let params = network.init(0, Device::Cpu)?;
        let turned = params.iter().rev().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        let error = network.check_params(&Params::new(turned, [])).unwrap_err();
        assert!(matches!(&error, Error::Setting { setting: "parameters", .. }), "{error}");
        // As many as there are, but the same one twice.
        let twice =
            [("layer1.weight"), ("layer1.weight")].map(|name| (name.to_owned(), params.tensors()[0].shallow_clone()));
        assert!(matches!(network.check_params(&Params::new(twice, [])), Err(Error::TensorNames { .. })));
        Ok(())
    }
}
