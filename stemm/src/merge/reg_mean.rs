//! RegMean (Jin et al. 2023): every linear and convolution layer becomes the linear map that on the data comes nearest to those of
//! the models, each on its own inputs: `W = (Σ W_i G_i)(Σ G_i)⁻¹` with the Gram matrices `G_i = X_iᵀ X_i / rows` of the layer's inputs
//! (of patches, for a convolution). Everything else is averaged.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{Mixer, Repair};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::network::{Memory, Mode, Model, Network, Observer, Params, Pass, Seen, WeightLayer, check_models};
use crate::train::positive;

/// Settings of RegMean.
///
/// ```
/// use stemm::prelude::*;
/// let data = blobs(0, Device::Cpu)?;
/// let network = Network::mlp(&[16, 8, 4])?;
/// let model = |seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?);
/// let merged = RegMean::default().merge(&[model(0)?, model(1)?], &data.train)?;
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegMean {
    /// At most so many samples, drawn at random.
    pub samples: usize,
    /// Factor for what lies beside the diagonals of the Gram matrices, in 0..=1: 0 looks at each input by itself.
    pub shrinkage: f64,
    /// Seed of the samples.
    pub seed: u64,
}

impl Default for RegMean {
    fn default() -> Self {
        RegMean { samples: 5_000, shrinkage: 0.9, seed: 0 }
    }
}

/// What of the mean diagonal entry pulls towards the plain mean, for directions in which the inputs never vary.
const RIDGE: f64 = 1e-6;

impl RegMean {
    /// The merge of aligned models, by their inputs on `data`, the training data.
    ///
    /// # Errors
    /// As [`merge`](super::merge); no samples, a shrinkage outside of 0..=1.
    pub fn merge(&self, models: &[Model], data: &Dataset) -> Result<Model> {
        check_models("RegMean", models, 1)?;
        self.check()?;
        let network = &models[0].network;
        network.check_dataset(data)?;
        let _guard = tch::no_grad_guard();
        let shares = vec![1.0 / models.len() as f64; models.len()];
        let mixer = Mixer::new(models, Repair::default(), data)?;
        let sample = data.sample(self.samples, self.seed)?;
        let layers = network.weight_layers()?;
        let squares = |layer: &WeightLayer| {
            let shape = models[0].params.tensors()[layer.weight].size();
            shape[1..].iter().product::<i64>().pow(2) as u64
        };
        // The sums over the models, those of the model at work, and what solving takes.
        crate::memory::check("the Gram matrices of RegMean", 3 * 8 * layers.iter().map(squares).sum::<u64>())?;
        let sets: Vec<&Params> = models.iter().map(|model| &model.params).collect();
        let mean = Params::weighted_sum(&sets, &shares)?;
        let mut tensors: Vec<Tensor> = mean.tensors().iter().map(Tensor::shallow_clone).collect();
        let flat = |tensor: &Tensor| tensor.f_to_kind(Kind::Double)?.f_flatten(1, -1);
        // Left and right side of `W Σ G_i = Σ W_i G_i`, layer by layer.
        let mut sides: Vec<Option<[Tensor; 2]>> = layers.iter().map(|_| None).collect();
        for params in &sets {
            for ((side, layer), gram) in
                sides.iter_mut().zip(&layers).zip(self.grams(network, params, &layers, &sample)?)
            {
                let target = flat(&params.tensors()[layer.weight])?.f_matmul(&gram)?;
                *side = Some(match side.take() {
                    None => [gram, target],
                    Some([grams, targets]) => [grams.f_add(&gram)?, targets.f_add(&target)?],
                });
            }
        }
        for (layer, side) in layers.iter().zip(sides) {
            let Some([grams, targets]) = side else { continue };
            let plain = &tensors[layer.weight];
            let ridge =
                grams.f_diagonal(0, 0, 1)?.f_mean(Kind::Double)?.f_mul_scalar(RIDGE)?.f_clamp_min(f64::MIN_POSITIVE)?;
            let left = grams.f_add(&Tensor::f_eye(grams.size()[0], (Kind::Double, grams.device()))?.f_mul(&ridge)?)?;
            let right = targets.f_add(&flat(plain)?.f_mul(&ridge)?)?;
            // The matrices are symmetric: W = (left⁻¹ rightᵀ)ᵀ.
            let solved = right.f_tr()?.f_cholesky_solve(&left.f_linalg_cholesky(false)?, false)?.f_tr()?;
            tensors[layer.weight] = solved.f_reshape(plain.size())?.f_to_kind(plain.kind())?;
        }
        mixer.set_right(mean.with(tensors), &shares)
    }

    pub(super) fn check(&self) -> Result<()> {
        positive("samples", self.samples)?;
        if !(0.0..=1.0).contains(&self.shrinkage) {
            let (value, requirement) = (self.shrinkage.to_string(), "at least 0 and at most 1, such as 0.9");
            return Err(Error::Setting { setting: "shrinkage", value, requirement });
        }
        Ok(())
    }

    /// The Gram matrix of each layer's inputs, what lies beside the diagonal shrunk.
    fn grams(
        &self,
        network: &Network,
        params: &Params,
        layers: &[WeightLayer],
        sample: &Dataset,
    ) -> Result<Vec<Tensor>> {
        let sums: RefCell<Vec<Option<Tensor>>> = RefCell::new(layers.iter().map(|_| None).collect());
        let rows: RefCell<Vec<f64>> = RefCell::new(vec![0.0; layers.len()]);
        let look = |_: Seen, place: usize, inputs: &Tensor| -> Result<()> {
            let inputs = inputs.f_to_kind(Kind::Double)?;
            let product = inputs.f_tr()?.f_matmul(&inputs)?;
            let sum = &mut sums.borrow_mut()[place];
            *sum = Some(match sum.take() {
                None => product,
                Some(sum) => sum.f_add(&product)?,
            });
            rows.borrow_mut()[place] += inputs.size()[0] as f64;
            Ok(())
        };
        for batch in network.chunks(sample, Memory::Forward, LARGEST_BATCH)? {
            let observer = Some(Observer { kinds: &[Seen::WeightInput], look: &look });
            let _ = network.run(params, &batch?.0, &Pass { observer, ..Pass::new(Mode::Eval) })?;
        }
        let missing = || Error::Empty { what: "the inputs of a layer".into() };
        let grams = sums.into_inner().into_iter().zip(rows.into_inner()).map(|(sum, rows)| {
            let gram = sum.ok_or_else(missing)?.f_div_scalar(rows)?;
            let diagonal = gram.f_diagonal(0, 0, 1)?.f_diag_embed(0, 0, 1)?.f_mul_scalar(1.0 - self.shrinkage)?;
            Ok(gram.f_mul_scalar(self.shrinkage)?.f_add(&diagonal)?)
        });
        grams.collect()
    }
}

/// Samples that pass at a time: patches of a convolution are many times as large as its inputs.
const LARGEST_BATCH: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn one_layer_becomes_the_least_squares_solution() -> Result<()> {
        let data = crate::data::blobs(0, Device::Cpu)?.train;
        let network = Network::mlp(&[16, 4])?;
        let models = [0, 1].map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
        let models = models.into_iter().collect::<Result<Vec<_>>>()?;
        // Both have the same inputs: the mean, whatever the Gram matrix.
        let merged = RegMean { shrinkage: 1.0, ..RegMean::default() }.merge(&models, &data)?;
        let mean = (&models[0].params.tensors()[0] + &models[1].params.tensors()[0]) / 2.0;
        let furthest = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(furthest(&merged.params.tensors()[0], &mean) < 1e-5);
        Ok(())
    }

    #[test]
    fn layers_behind_a_hidden_one_solve_the_least_squares_problem_of_their_own_inputs() -> Result<()> {
        use crate::network::{Conv2d, Flatten, Linear, Relu};
        let blobs = crate::data::blobs(0, Device::Cpu)?.train;
        let data = Dataset::new("images", blobs.images().view([-1, 1, 4, 4]), blobs.labels().shallow_clone(), 4)?;
        let network = Network::new(
            [1, 4, 4],
            [
                ("a", Conv2d::new(1, 3, 3).padding(1).into()),
                ("relu", Relu.into()),
                ("b", Conv2d::new(3, 4, 2).stride(2).without_bias().into()),
                ("flatten", Flatten.into()),
                ("head", Linear::new(16, 4).into()),
            ],
        )?;
        let models = [0, 1].map(|seed| Model::new(network.clone(), network.init(seed, Device::Cpu)?));
        let models = models.into_iter().collect::<Result<Vec<_>>>()?;
        let merged = RegMean { shrinkage: 1.0, samples: 10_000, ..RegMean::default() }.merge(&models, &data)?;
        // Oracle: rows of patches, cut by hand, of both models one above the other, and their outputs, by least squares.
        let patches = |model: &Model| {
            let (weight, bias) = (&model.params.tensors()[0], &model.params.tensors()[1]);
            let hidden =
                data.images().conv2d(weight, Some(bias), [1, 1], [1, 1], [1, 1], 1).relu().to_kind(Kind::Double);
            let cut = |row: i64, column: i64| hidden.narrow(2, row, 2).narrow(3, column, 2).flatten(1, -1);
            Tensor::cat(&[cut(0, 0), cut(0, 2), cut(2, 0), cut(2, 2)], 0)
        };
        let weight = |model: &Model| model.params.get("b.weight").unwrap().to_kind(Kind::Double).flatten(1, -1);
        let x = Tensor::cat(&[patches(&models[0]), patches(&models[1])], 0);
        let outputs = models.iter().map(|model| patches(model).matmul(&weight(model).tr())).collect::<Vec<_>>();
        let exact = x.pinverse(1e-12).matmul(&Tensor::cat(&outputs, 0)).tr();
        let error = (weight(&merged) - &exact).norm().double_value(&[]) / exact.norm().double_value(&[]);
        assert!(error < 1e-3, "{error}");
        let plain = super::super::merge(&models, &data)?;
        assert!((weight(&plain) - &exact).norm().double_value(&[]) > 0.05, "the mean would do");
        assert!(merged.params.get("a.bias") == plain.params.get("a.bias"));
        Ok(())
    }
}
