//! Networks as values: a [`Network`] describes layers, [`Params`] holds the tensors, [`Network::forward`] is a pure
//! function of both. Shapes, tensors and permutation groups ([`PermutationSpec`]) follow from the description.

mod activation;
pub mod architecture;
mod batch_norm;
mod branches;
mod check;
mod conv2d;
mod dropout;
mod fit;
mod flatten;
mod group_norm;
mod groups;
mod layer;
mod layer_norm;
mod linear;
mod model;
mod outputs;
mod params;
mod pool;
mod sequence;
mod spec;
mod summary;

pub use activation::{Gelu, Relu, Tanh};
pub use batch_norm::BatchNorm;
pub(crate) use batch_norm::MOMENTUM;
pub use branches::{Add, Concat};
pub use conv2d::Conv2d;
pub use dropout::Dropout;
pub(crate) use fit::Memory;
pub use flatten::Flatten;
pub use group_norm::GroupNorm;
pub use layer::Layer;
pub(crate) use layer::{Observer, Pass, Plan, Seen};
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use model::Model;
pub(crate) use model::check_models;
pub(crate) use outputs::by_unit;
pub use params::Params;
pub(crate) use params::{dot, flat, squared_distance};
pub use pool::{AdaptiveAvgPool2d, AvgPool2d, MaxPool2d};
pub use sequence::Sequence;
pub(crate) use spec::Member;
pub use spec::{AxisSegment, PermutationGroup, PermutationSpec};

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::rng::{Purpose, rng};
use groups::Axis;
use layer::{Flow, LayerRule, TensorPlan, Values};

/// How a network runs: layers such as batch norm and dropout differ between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// With the statistics of the batch, and with dropout masks drawn from the seed.
    Train {
        /// Seed of the dropout masks; networks without dropout do not look at it.
        seed: u64,
    },
    /// With the stored statistics and without dropout.
    Eval,
}

/// Where the tensors of a linear or convolution layer are among the parameters.
pub(crate) struct WeightLayer {
    pub name: String,
    pub weight: usize,
    pub bias: Option<usize>,
    /// Whether its outputs are units inside the network.
    pub hidden: bool,
}

/// An immutable description of a network: the shape of one input and named layers in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Network {
    input_shape: Vec<i64>,
    layers: Sequence,
}

impl Network {
    /// Describes a network for inputs of `input_shape` (without the batch axis).
    ///
    /// # Errors
    /// The first layer that does not fit its input, with its name, the shape that it takes and the one that it gets; a
    /// name that occurs twice.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let network = Network::new([1, 28, 28], [
    ///     ("conv", Conv2d::new(1, 8, 3).padding(1).into()),
    ///     ("norm", BatchNorm::new(8).into()),
    ///     ("relu", Relu.into()),
    ///     ("pool", MaxPool2d::new(4).into()),
    ///     ("flatten", Flatten.into()),
    ///     ("head", Linear::new(8 * 7 * 7, 10).into()),
    /// ])?;
    /// assert_eq!(network.output_shape(), [10]);
    /// assert_eq!(network.permutation_spec().groups()[0].size, 8); // the channels, also in the head's inputs
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn new<N: Into<String>>(
        input_shape: impl Into<Vec<i64>>,
        layers: impl IntoIterator<Item = (N, Layer)>,
    ) -> Result<Network> {
        let network = Network { input_shape: input_shape.into(), layers: Sequence::new(layers) };
        network.plan()?;
        Ok(network)
    }

    /// Shape of one input, without the batch axis.
    pub fn input_shape(&self) -> &[i64] {
        &self.input_shape
    }

    /// Shape of one output, without the batch axis.
    pub fn output_shape(&self) -> Vec<i64> {
        // Constructors and `Model::load` checked every layer.
        self.plan().map(|(_, output)| output.shape).unwrap_or_default()
    }

    /// Layers in order, with their names.
    pub fn layers(&self) -> &[(String, Layer)] {
        self.layers.layers()
    }

    /// Shapes, tensors and ties of all layers, and what flows out; an error names the first layer that does not fit.
    pub(crate) fn plan(&self) -> Result<(Plan, Flow)> {
        let sized = self.input_shape.iter().try_for_each(|&size| layer::check_size("side", size, 1));
        let sized = sized.and_then(|()| layer::check_values("the input", &self.input_shape));
        if self.input_shape.is_empty() || sized.is_err() {
            let requirement =
                "at least one dimension, each at least 1, such as [3, 32, 32], and no more than fits into memory";
            let value = format!("{:?}", self.input_shape);
            return Err(Error::Setting { setting: "input_shape", value, requirement });
        }
        let mut plan = Plan::default();
        let input = Flow { shape: self.input_shape.clone(), axis: Axis::fixed(self.input_shape[0]) };
        let output = self.layers.plan(input, &mut plan)?;
        plan.ties.fix(&output.axis);
        Ok((plan, output))
    }

    fn tensor_plans(&self) -> (Vec<TensorPlan>, Vec<TensorPlan>) {
        self.plan().map(|(plan, _)| (plan.parameters, plan.buffers)).unwrap_or_default()
    }

    /// Names and shapes of the tensors in their fixed order: parameters, then buffers.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<i64>)> {
        let (parameters, buffers) = self.tensor_plans();
        parameters.into_iter().chain(buffers).map(|tensor| (tensor.name.clone(), tensor.shape())).collect()
    }

    /// Whether the network has running statistics, which a merged network must have recomputed.
    pub fn has_batch_norm(&self) -> bool {
        !self.tensor_plans().1.is_empty()
    }

    /// The linear and convolution layers in the order in which a pass shows their outputs.
    pub(crate) fn weight_layers(&self) -> Result<Vec<WeightLayer>> {
        let (plan, _) = self.plan()?;
        let layers = plan.layers.iter().filter(|layer| matches!(layer.kind, "Linear" | "Conv2d"));
        let weight_layer = |layer: &layer::LayerPlan| {
            let mut own = (0..plan.parameters.len()).filter(|&index| plan.parameters[index].layer == layer.name);
            let weight = own.next()?;
            let units = plan.ties.resolve(&plan.parameters[weight].axes[0]);
            let hidden = units.iter().any(|segment| segment.symbol.is_some());
            Some(WeightLayer { name: layer.name.clone(), weight, bias: own.next(), hidden })
        };
        Ok(layers.filter_map(weight_layer).collect())
    }

    /// Draws parameters as PyTorch's modules do by default; the same seed gives the same values on every device.
    ///
    /// # Errors
    /// More parameters than there is memory for.
    pub fn init(&self, seed: u64, device: impl Into<Device>) -> Result<Params> {
        let device = device.into();
        let mut rng = rng(seed, Purpose::Initialisation);
        let mut draw = |plans: Vec<TensorPlan>| -> Result<Vec<(String, Tensor)>> {
            let tensors = plans.into_iter().map(|tensor| {
                let shape = tensor.shape();
                let values = Tensor::f_from_slice(&tensor.init.draw(shape.iter().product(), &mut rng))?;
                Ok((tensor.name, values.f_view(shape.as_slice())?.f_to_device(device)?))
            });
            tensors.collect()
        };
        let (plan, _) = self.plan()?;
        let sizes = plan.parameters.iter().chain(&plan.buffers).map(|tensor| tensor.shape().iter().product::<i64>());
        let largest = sizes.clone().max().unwrap_or(0);
        // The values of one tensor exist twice while libtorch takes them over.
        crate::memory::check("the parameters", 4 * (sizes.map(|size| size as u64).sum::<u64>() + largest as u64))?;
        Ok(Params::new(draw(plan.parameters)?, draw(plan.buffers)?))
    }

    /// Computes the outputs `[batch, ...]` for inputs `x: [batch, ...]`; flat samples are reshaped to the input shape, and
    /// images flattened for a flat one.
    ///
    /// # Errors
    /// Samples of another shape than the input's, unless one of the two is flat; parameters of another network.
    pub fn forward(&self, params: &Params, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.run(params, x, &Pass::new(mode))
    }

    /// [`Network::forward`] with everything that a pass can do besides.
    pub(crate) fn run(&self, params: &Params, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let size = x.size();
        // Models side by side come from `evaluate::beside`, with one model's samples flattened after the other's.
        if pass.models == 1 {
            self.check_sample(|| "one sample of the input".into(), size.get(1..).unwrap_or_default())?;
        }
        let mut shape = vec![size[0], pass.models * self.input_shape[0]];
        shape.extend(&self.input_shape[1..]);
        // The network computes in the format of its parameters; pixels may be f32 or bytes.
        let kind = params.tensors().first().map_or_else(|| x.kind(), Tensor::kind);
        let x = x.f_reshape(shape.as_slice())?.f_to_kind(kind)?;
        let mut values = Values { parameters: params.tensors().iter(), buffers: params.buffers().iter() };
        let y = self.layers.forward(&mut values, &x, pass)?;
        if values.parameters.len() + values.buffers.len() > 0 {
            return Err(Values::exhausted());
        }
        // Losses are computed from f32 even where the products were not.
        if pass.precision == Kind::Float { Ok(y) } else { Ok(y.f_to_kind(kind)?) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_does_not_fit_is_named_with_both_shapes() {
        let inner = Add::residual([("conv2", Conv2d::new(8, 4, 3).padding(1).into())]);
        let error =
            Network::new([3, 8, 8], [("conv1", Conv2d::new(3, 8, 3).into()), ("block", inner.into())]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`block`") && text.contains("[8, 6, 6]") && text.contains("[4, 6, 6]"), "{text}");
        let deep = Sequence::new([("0", Conv2d::new(5, 4, 3).into())]);
        let error = Network::new([3, 8, 8], [("features", deep.into())]).unwrap_err();
        assert!(
            matches!(&error, Error::LayerShape { layer, given, .. } if layer == "features.0" && *given == [3, 8, 8])
        );
        assert!(error.to_string().contains("[5, "), "{error}");
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        for (layer, word) in [
            (Layer::from(Conv2d::new(3, 8, 0)), "kernel 0"),
            (Dropout::new(1.0).into(), "probability 1"),
            (GroupNorm::new(2, 3).into(), "2 equal runs"),
            (MaxPool2d::new(2).padding(2).into(), "padding 2"),
            (Add::new([]).into(), "no branches"),
        ] {
            let error = Network::new([3, 8, 8], [("bad", layer)]).unwrap_err();
            assert!(matches!(&error, Error::Layer { layer, .. } if layer == "bad"), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn names_that_occur_twice_are_refused() {
        let error = Network::new([2], [("a", Relu.into()), ("a", Relu.into())]).unwrap_err();
        assert!(error.to_string().contains("same name"), "{error}");
    }

    #[test]
    fn layers_are_listed_by_name_in_their_order() -> Result<()> {
        let network = Network::mlp(&[3, 5, 2])?;
        let names: Vec<&str> = network.layers().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["layer1", "relu1", "layer2"]);
        Ok(())
    }

    #[test]
    fn parameters_that_take_half_as_much_again_as_is_free_are_refused() -> Result<()> {
        let Some(free) = crate::memory::available() else { return Ok(()) };
        let side = (free as f64 * 1.5 / 4.0).sqrt() as i64;
        let error = Network::new([side], [("fc", Linear::new(side, side).into())])?.init(0, Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        Ok(())
    }

    #[test]
    fn products_of_sixteen_bits_give_outputs_of_the_parameters_format() -> Result<()> {
        let network = Network::mlp(&[3, 5, 2])?;
        let (params, x) = (network.init(0, Device::Cpu)?, Tensor::ones([4, 3], (Kind::Float, Device::Cpu)));
        let pass = |precision| Pass { precision, ..Pass::new(Mode::Eval) };
        let (full, half) =
            (network.run(&params, &x, &pass(Kind::Float))?, network.run(&params, &x, &pass(Kind::BFloat16))?);
        assert_eq!((full.kind(), half.kind()), (Kind::Float, Kind::Float));
        let error = (&full - half).abs().max().double_value(&[]);
        assert!(error > 0.0 && error < 0.05, "{error}");
        Ok(())
    }

    #[test]
    fn dropout_depends_on_the_seed_alone_and_keeps_the_mean() -> Result<()> {
        let network = Network::new([10_000], [("drop", Dropout::new(0.25).into())])?;
        let (params, x) = (network.init(0, Device::Cpu)?, Tensor::ones([1, 10_000], (Kind::Float, Device::Cpu)));
        let run = |seed| network.forward(&params, &x, Mode::Train { seed });
        assert_eq!(run(1)?, run(1)?);
        assert_ne!(run(1)?, run(2)?);
        assert!((run(1)?.mean(Kind::Float).double_value(&[]) - 1.0).abs() < 0.03);
        assert_eq!(network.forward(&params, &x, Mode::Eval)?, x);
        Ok(())
    }

    #[test]
    fn networks_side_by_side_give_what_each_gives_alone() -> Result<()> {
        let conv = |name: &'static str, from, to| (name, Layer::from(Conv2d::new(from, to, 3).padding(1)));
        let branches = [Sequence::new([conv("a", 4, 3)]), Sequence::identity(), Sequence::new([conv("b", 4, 5)])];
        let network = Network::new(
            [2, 6, 6],
            [
                conv("stem", 2, 4),
                ("norm", BatchNorm::new(4).into()),
                ("branches", Concat::new(branches).into()),
                ("relu", Relu.into()),
                ("residual", Add::residual([conv("c", 12, 12), ("group_norm", GroupNorm::new(3, 12).into())]).into()),
                ("layer_norm", LayerNorm::new([12, 6, 6]).into()),
                ("drop", Dropout::new(0.3).into()),
                ("pool", MaxPool2d::new(2).into()),
                ("flatten", Flatten.into()),
                ("hidden", Linear::new(108, 8).into()),
                ("unit_norm", LayerNorm::new([8]).into()),
                ("unit_drop", Dropout::new(0.3).into()),
                ("head", Linear::new(8, 3).into()),
            ],
        )?;
        let double = (Kind::Double, Device::Cpu);
        let sets = (0..3).map(|seed| {
            // Norms begin alike in all models: told apart by some noise.
            let noisy = |tensor: &Tensor| Ok(tensor.to_kind(Kind::Double) + Tensor::rand(tensor.size(), double) * 0.1);
            network.init(seed, Device::Cpu)?.map(noisy)?.leaves()
        });
        let sets: Vec<Params> = sets.collect::<Result<_>>()?;
        let inputs: Vec<Tensor> = (0..3).map(|_| Tensor::randn([5, 2, 6, 6], double)).collect();
        let stacked = Params::stacked(&sets.iter().collect::<Vec<_>>())?.into_leaves()?;
        let x = Tensor::cat(&inputs, 1);
        let seeds = [7, 8, 9];
        for training in [true, false] {
            let pass = |seeds: &[u64]| match training {
                true => Pass { momentum: Some(0.1), ..Pass::training(seeds.to_vec()) },
                false => Pass { models: seeds.len() as i64, ..Pass::new(Mode::Eval) },
            };
            let together = network.run(&stacked, &x, &pass(&seeds))?.view([5, 3, 3]);
            let gradients = Tensor::run_backward(&[together.square().sum(None)], stacked.tensors(), false, false);
            let parts = stacked.unstacked(3)?; // batch norm's running statistics moved as well
            for (model, set) in sets.iter().enumerate() {
                let alone = network.run(set, &inputs[model], &pass(&seeds[model..=model]))?;
                let error = (&alone - together.select(1, model as i64)).abs().max().double_value(&[]);
                assert!(error < 1e-10, "outputs of model {model}: {error}");
                let own = Tensor::run_backward(&[alone.square().sum(None)], set.tensors(), false, false);
                let pairs = own.iter().zip(gradients.iter().map(|gradient| gradient.select(0, model as i64)));
                let error = pairs.map(|(a, b)| (a - b).abs().max().double_value(&[])).fold(0.0, f64::max);
                assert!(error < 1e-9, "gradients of model {model}: {error}");
                for ((name, part), (_, own)) in parts[model].iter().zip(set.iter()) {
                    assert!((part - own).abs().max().double_value(&[]) < 1e-10, "{name}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_pass_in_training_mode_leaves_running_statistics_alone() -> Result<()> {
        let network = Network::new([4], [("norm", BatchNorm::new(4).into())])?;
        let params = network.init(0, Device::Cpu)?;
        let before = params.copied()?;
        let _ =
            network.forward(&params, &Tensor::randn([8, 4], (Kind::Float, Device::Cpu)), Mode::Train { seed: 0 })?;
        assert!(params.buffers().iter().zip(before.buffers()).all(|(a, b)| a == b));
        Ok(())
    }
}
