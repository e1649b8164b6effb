//! Fisher merging (Matena, Raffel 2022): `θ = Σ F_i θ_i / Σ F_i`, element by element, with the diagonal of each model's Fisher
//! information, `F_i = E_x E_{y ~ p_i(y|x)} (∇ log p_i(y|x))²`.

use rand::RngExt;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Mixer, Repair};
use crate::data::{Dataset, Order};
use crate::error::{Error, Result};
use crate::evaluate::cross_entropy;
use crate::network::{Mode, Model, Network, Params, check_models};
use crate::rng::{Purpose, rng, step_seed};
use crate::train::positive;

/// Settings of Fisher merging.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let merged = Fisher { samples: 50, ..Fisher::default() }.merge(&[model(0)?, model(1)?], &data.train)?;
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fisher {
    /// Samples that the expectation is taken over, drawn at random; each is a pass of its own.
    pub samples: usize,
    /// Added to each entry of the information, so that what no output depends on is averaged.
    pub floor: f64,
    /// Seed of the samples and of the labels.
    pub seed: u64,
}

impl Default for Fisher {
    fn default() -> Self {
        Fisher { samples: 500, floor: 1e-6, seed: 0 }
    }
}

impl Fisher {
    /// The mean of aligned models, weighted by their information on `data`, the training data.
    ///
    /// # Errors
    /// As [`merge`](super::merge); no samples, a floor that is not positive.
    pub fn merge(&self, models: &[Model], data: &Dataset) -> Result<Model> {
        check_models("Fisher merging", models, 1)?;
        self.check()?;
        let network = &models[0].network;
        network.check_dataset(data)?;
        let mixer = Mixer::new(models, Repair::default(), data)?;
        let sample = data.sample(self.samples, self.seed)?;
        let first = &models[0].params;
        let zeros = || first.tensors().iter().map(|tensor| tensor.f_zeros_like()?.f_to_kind(Kind::Double));
        let mut weighted: Vec<Tensor> = zeros().collect::<Result<_, _>>()?;
        let mut weights: Vec<Tensor> = zeros().collect::<Result<_, _>>()?;
        for (number, model) in models.iter().enumerate() {
            let information = self.information(network, &model.params, &sample, number)?;
            let _guard = tch::no_grad_guard();
            for (index, own) in information.iter().enumerate() {
                let own = own.f_add_scalar(self.floor)?;
                let _ = weighted[index].f_add_(&own.f_mul(&model.params.tensors()[index])?)?;
                let _ = weights[index].f_add_(&own)?;
            }
        }
        let mean = weighted.iter().zip(&weights).map(|(sum, weights)| sum.f_div(weights)?.f_to_kind(first.kind()));
        let mean = first.with(mean.collect::<Result<_, _>>()?);
        mixer.set_right(mean, &vec![1.0 / models.len() as f64; models.len()])
    }

    pub(super) fn check(&self) -> Result<()> {
        positive("samples", self.samples)?;
        if !(self.floor > 0.0 && self.floor.is_finite()) {
            let (setting, value, requirement) = ("floor", self.floor.to_string(), "positive and finite, such as 1e-6");
            return Err(Error::Setting { setting, value, requirement });
        }
        Ok(())
    }

    /// The diagonal of a model's information, one f64 tensor a parameter.
    fn information(&self, network: &Network, params: &Params, sample: &Dataset, number: usize) -> Result<Vec<Tensor>> {
        let leaves = params.leaves()?;
        let zeros =
            |kind| leaves.tensors().iter().map(move |tensor| tensor.f_detach()?.f_zeros_like()?.f_to_kind(kind));
        let mut sums: Vec<Tensor> = zeros(Kind::Double).collect::<Result<_, _>>()?;
        // Of a few samples in the format of the gradients, which is several times as fast.
        let mut few: Vec<Tensor> = zeros(params.kind()).collect::<Result<_, _>>()?;
        let mut seen = 0;
        let mut labels = rng(step_seed(self.seed, number), Purpose::Label);
        for one in network.batches(sample, 1, Order::Sequential)? {
            let logits = network.forward(&leaves, &one?.0, Mode::Eval)?;
            let shares = Vec::<f64>::try_from(logits.f_detach()?.f_softmax(-1, Kind::Double)?.f_view([-1])?)?;
            let label = drawn(&shares, labels.random());
            let label = Tensor::f_from_slice(&[label as i64])?.f_to_device(logits.device())?;
            let loss = cross_entropy(&logits, &label, 0.0)?;
            let gradients = Tensor::f_run_backward(&[&loss], leaves.tensors(), false, false)?;
            for (sum, gradient) in few.iter_mut().zip(gradients) {
                let _ = sum.f_addcmul_(&gradient, &gradient)?;
            }
            seen += 1;
            if seen % FEW == 0 || seen == sample.len() {
                for (sum, few) in sums.iter_mut().zip(&mut few) {
                    let _ = sum.f_add_(few)?;
                    let _ = few.f_zero_()?;
                }
            }
        }
        sums.into_iter().map(|sum| Ok(sum.f_div_scalar(sample.len() as f64)?)).collect()
    }
}

/// Samples whose squares are summed in the format of the gradients.
const FEW: usize = 64;

/// The label at which the sum of probabilities passes a uniform number.
fn drawn(shares: &[f64], uniform: f64) -> usize {
    let mut sum = 0.0;
    let passed = shares.iter().position(|share| {
        sum += share;
        sum > uniform
    });
    passed.unwrap_or(shares.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn information_of_a_linear_softmax_is_that_of_the_formula() -> Result<()> {
        // ∇_b log p(y) = e_y - p, so that E_y (e_y - p)² = p (1 - p), and for the weights times x².
        let data = crate::data::blobs(0, Device::Cpu)?.train;
        let network = Network::mlp(&[16, 4])?;
        let params = network.init(0, Device::Cpu)?;
        let found = Fisher::default().information(&network, &params, &data, 0)?;
        let x = data.images().to_kind(Kind::Double);
        let p = network.forward(&params, data.images(), Mode::Eval)?.softmax(-1, Kind::Double);
        let variance: Tensor = &p - p.square();
        let n = data.len() as f64;
        let exact = [variance.tr().matmul(&x.square()) / n, variance.mean_dim([0i64].as_slice(), false, Kind::Double)];
        for (found, exact) in found.iter().zip(exact) {
            let error = (found - &exact).norm().double_value(&[]) / exact.norm().double_value(&[]);
            assert!(error < 0.15, "{error}"); // labels are drawn once a sample
        }
        Ok(())
    }

    #[test]
    fn the_mean_is_weighted_by_the_information_above_its_floor() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?.train;
        let network = Network::mlp(&[16, 5, 4])?;
        let models = [0, 1].map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
        let models = models.into_iter().collect::<Result<Vec<_>>>()?;
        for floor in [1e-6, 1e-2, 1e6] {
            let fisher = Fisher { samples: 40, floor, seed: 3 };
            let merged = fisher.merge(&models, &data)?;
            let sample = data.sample(40, 3)?;
            let of = |number: usize| fisher.information(&network, &models[number].params, &sample, number);
            let (first, second) = (of(0)?, of(1)?);
            for (index, found) in merged.params.tensors().iter().enumerate() {
                let (a, b) = (&first[index] + floor, &second[index] + floor);
                let own = |number: usize| &models[number].params.tensors()[index];
                let exact = (&a * own(0) + &b * own(1)) / (&a + &b);
                assert!((found - exact).abs().max().double_value(&[]) < 1e-6, "{floor}");
            }
            let plain = super::super::merge(&models, &data)?;
            let apart = (&merged.params.tensors()[0] - &plain.params.tensors()[0]).abs().max().double_value(&[]);
            assert_eq!(apart < 1e-6, floor > 1.0, "{floor}: {apart}");
        }
        Ok(())
    }

    #[test]
    fn labels_are_drawn_by_their_probabilities() {
        let shares = [0.2, 0.5, 0.3];
        assert_eq!([0.0, 0.19, 0.21, 0.69, 0.71, 0.999].map(|uniform| drawn(&shares, uniform)), [0, 0, 1, 1, 2, 2]);
        assert_eq!(drawn(&[0.5, 0.4999], 0.99999), 1); // rounding
    }
}
