//! The Hessian `H` of the mean cross-entropy, seen through its products with vectors: trace, largest eigenvalues, and
//! spectral density, each plain or weighted by the parameters.
//!
//! Everything is in evaluation mode; `H v` comes from double back-propagation, averaged over batches by their sizes.

mod density;
mod krylov;
mod lanczos;
mod trace;

pub use density::{Density, SpectralDensity};
pub use lanczos::{Eigenvalues, Lanczos};
pub use trace::{BatchTrace, Estimator, Hutchinson, TraceEstimate, Traces};

use rand::Rng;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::evaluate::cross_entropy;
use crate::network::{Memory, Mode, Model, Network, Params, dot, flat};
use crate::rng::{normal, uniform};

/// Which matrix is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weighting {
    /// `H`.
    Plain,
    /// `diag|θ| H diag|θ|`: the paper's, invariant to the scale symmetry of ReLU networks.
    Parameters,
}

impl Weighting {
    fn name(self) -> &'static str {
        match self {
            Weighting::Plain => "plain",
            Weighting::Parameters => "parameters",
        }
    }
}

/// The Hessian as a linear map on vectors of length `d`, the number of parameters.
struct Hessian<'a> {
    network: &'a Network,
    params: Params,
    data: &'a Dataset,
    /// `|θ|`, for the weighted matrix.
    scale: Option<Tensor>,
}

impl<'a> Hessian<'a> {
    fn new(model: &'a Model, data: &'a Dataset, weighting: Weighting) -> Result<Hessian<'a>> {
        model.network.check_params(&model.params)?;
        model.network.check_dataset(data)?;
        if model.params.numel() == 0 {
            return Err(Error::Empty { what: "the set of parameters".into() });
        }
        let params = model.params.leaves()?;
        let scale = match weighting {
            Weighting::Plain => None,
            Weighting::Parameters => Some(flat(model.params.tensors())?.f_detach()?.f_abs()?),
        };
        Ok(Hessian { network: &model.network, params, data, scale })
    }

    /// Number of parameters.
    fn dimension(&self) -> i64 {
        self.params.numel() as i64
    }

    /// The products with some vectors `[d]`; one pass over the data for all of them.
    fn products(&self, vectors: &[Tensor]) -> Result<Vec<Tensor>> {
        let vectors: Vec<Tensor> = vectors.iter().map(|vector| self.scaled(vector)).collect::<Result<_>>()?;
        let mut sums: Vec<Tensor> = vectors.iter().map(|vector| Ok(vector.f_zeros_like()?)).collect::<Result<_>>()?;
        self.each_batch(usize::MAX, |share, product| {
            for (sum, vector) in sums.iter_mut().zip(&vectors) {
                let _ = sum.f_add_(&product(vector)?.f_mul_scalar(share)?)?;
            }
            Ok(())
        })?;
        for sum in &sums {
            check_finite(crate::data::all_finite(sum)?)?;
        }
        sums.iter().map(|sum| self.scaled(sum)).collect()
    }

    /// `vᵀ H_b v` of the Hessian of each batch `b`, for some vectors of the batch's own; one pass over the data.
    ///
    /// With the batches' shares in the data: `H = Σ share_b H_b`.
    fn forms(
        &self,
        largest_batch: usize,
        count: usize,
        mut draw: impl FnMut() -> Result<Tensor>,
    ) -> Result<Vec<(f64, Vec<f64>)>> {
        let mut batches = Vec::new();
        self.each_batch(largest_batch, |share, product| {
            let forms = (0..count).map(|_| {
                let vector = self.scaled(&draw()?)?;
                let form = dot(&product(&vector)?, &vector)?;
                check_finite(form.is_finite()).map(|()| form)
            });
            batches.push((share, forms.collect::<Result<_>>()?));
            Ok(())
        })?;
        Ok(batches)
    }

    /// Gives the share of each batch in the data, and the product with the Hessian of its loss, not weighted.
    fn each_batch(
        &self,
        largest: usize,
        mut work: impl FnMut(f64, &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<()>,
    ) -> Result<()> {
        for batch in self.network.chunks(self.data, Memory::SecondOrder, largest)? {
            let (x, y) = batch?;
            let share = y.size()[0] as f64 / self.data.len() as f64;
            let loss = cross_entropy(&self.network.forward(&self.params, &x, Mode::Eval)?, &y, 0.0)?;
            let gradient = flat(&Tensor::f_run_backward(&[&loss], self.params.tensors(), true, true)?)?;
            work(share, &|vector| {
                let product = gradient.f_dot(vector)?;
                flat(&Tensor::f_run_backward(&[&product], self.params.tensors(), true, false)?)
            })?;
        }
        Ok(())
    }

    /// A vector times `|θ|`, where the matrix is weighted.
    fn scaled(&self, vector: &Tensor) -> Result<Tensor> {
        Ok(self.scale.as_ref().map_or_else(|| Ok(vector.shallow_clone()), |scale| vector.f_mul(scale))?)
    }

    /// Independent normal numbers as a vector `[d]`.
    fn normal(&self, rng: &mut impl Rng) -> Result<Tensor> {
        Ok(normal(&[self.dimension()], rng, self.params.device())?.f_to_kind(self.params.kind())?)
    }

    /// Independent signs, +1 or -1, as a vector `[d]`.
    fn signs(&self, rng: &mut impl Rng) -> Result<Tensor> {
        let uniform = uniform(&[self.dimension()], rng, self.params.device())?;
        Ok(uniform.f_ge(0.5)?.f_to_kind(self.params.kind())?.f_mul_scalar(2.0)?.f_sub_scalar(1.0)?)
    }
}

fn check_finite(is_finite: bool) -> Result<()> {
    if is_finite {
        return Ok(());
    }
    let hint = "look at the model's loss by `evaluate`: where it overflows there are no second derivatives";
    Err(Error::NonFinite { tensor: "a product of the Hessian".into(), hint })
}

/// Checks the error at which an estimate ends.
fn check_relative_error(value: Option<f64>) -> Result<()> {
    match value {
        Some(value) if !(value >= 0.0 && value.is_finite()) => {
            let (setting, value, requirement) =
                ("relative_error", value.to_string(), "at least 0 and finite, such as 0.01");
            Err(Error::Setting { setting, value, requirement })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use tch::{Device, Kind};

    /// A small model in f64, its data, and its Hessian entry by entry, `[d, d]`.
    pub(super) fn explicit(weighting: Weighting, samples: usize) -> Result<(Model, Dataset, Tensor)> {
        let network = Network::mlp(&[16, 5, 4])?;
        let params = network.init(3, Device::Cpu)?.to_kind(Kind::Double)?;
        let model = Model::new(network.clone(), params)?;
        let data = crate::data::blobs(0, Device::Cpu)?.train.take(samples)?;
        let leaves = model.params.leaves()?;
        let x = data.images().to_kind(Kind::Double);
        let loss = cross_entropy(&network.forward(&leaves, &x, Mode::Eval)?, data.labels(), 0.0)?;
        let gradient = flat(&Tensor::run_backward(&[&loss], leaves.tensors(), true, true))?;
        let row = |entry| flat(&Tensor::run_backward(&[gradient.get(entry)], leaves.tensors(), true, false));
        let rows: Vec<Tensor> = (0..gradient.size()[0]).map(row).collect::<Result<_>>()?;
        let mut matrix = Tensor::stack(&rows, 0);
        if weighting == Weighting::Parameters {
            let scale = flat(model.params.tensors())?.abs();
            matrix = matrix * scale.unsqueeze(0) * scale.unsqueeze(1);
        }
        let single = Model::new(network, model.params.to_kind(Kind::Float)?)?;
        Ok((single, data, matrix))
    }

    #[test]
    fn products_are_those_of_the_network_as_it_is_evaluated() -> Result<()> {
        use crate::network::{BatchNorm, Dropout, Linear, Relu};
        let with = |p| -> Result<Vec<f64>> {
            let network = Network::new(
                [16],
                [
                    ("fc", Linear::new(16, 5).into()),
                    ("norm", BatchNorm::new(5).into()),
                    ("relu", Relu.into()),
                    ("drop", Dropout::new(p).into()),
                    ("head", Linear::new(5, 4).into()),
                ],
            )?;
            let model = Model::new(network.clone(), network.init(0, Device::Cpu)?)?;
            let data = crate::data::blobs(0, Device::Cpu)?.test;
            let hessian = Hessian::new(&model, &data, Weighting::Plain)?;
            let vector = Tensor::ones([hessian.dimension()], (Kind::Float, Device::Cpu));
            // By the batch's statistics the loss would not depend on the bias before the norm at all.
            let product = hessian.products(&[vector])?.remove(0);
            let bias = product.narrow(0, 80, 5).abs().max().double_value(&[]);
            assert!(bias > 1e-4, "{bias}");
            Ok(Vec::try_from(product.to_kind(Kind::Double))?)
        };
        assert_eq!(with(0.0)?, with(0.5)?);
        Ok(())
    }

    #[test]
    fn products_are_those_of_the_explicit_matrix() -> Result<()> {
        for weighting in [Weighting::Plain, Weighting::Parameters] {
            let (model, data, matrix) = explicit(weighting, 32)?;
            let hessian = Hessian::new(&model, &data, weighting)?;
            let vectors: Vec<Tensor> =
                (0..3).map(|_| Tensor::randn([hessian.dimension()], (Kind::Float, Device::Cpu))).collect();
            for (product, vector) in hessian.products(&vectors)?.iter().zip(&vectors) {
                let exact = matrix.mv(&vector.to_kind(Kind::Double));
                let error = (product - &exact).norm().double_value(&[]) / exact.norm().double_value(&[]);
                assert!(error < 1e-5, "{weighting:?}: {error}");
            }
        }
        Ok(())
    }
}
