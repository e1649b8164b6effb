//! What every layer states about itself, in one place: how it fits its input, its tensors and the axes that they tie
//! ([`LayerRule::plan`]), and its output ([`LayerRule::forward`]). To add a layer type: one file with a struct and its
//! [`LayerRule`], and one line in the list below.

use std::cell::Cell;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::groups::{Axis, Ties};
use super::{
    AdaptiveAvgPool2d, Add, AvgPool2d, BatchNorm, Concat, Conv2d, Dropout, Flatten, Gelu, GroupNorm, LayerNorm, Linear,
    MaxPool2d, Mode, Relu, Sequence, Tanh,
};
use crate::error::{Error, Result};
use crate::rng::{Purpose, rng};

macro_rules! layers {
    ($($name:ident: $text:literal,)*) => {
        /// A layer of a [`Network`](super::Network).
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Layer {
            $(#[doc = $text] $name($name),)*
        }

        impl Layer {
            pub(crate) fn rule(&self) -> &dyn LayerRule {
                match self {
                    $(Layer::$name(layer) => layer,)*
                }
            }

            /// Name of the layer type, such as `Linear`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Layer::$name(_) => stringify!($name),)*
                }
            }
        }

        $(impl From<$name> for Layer {
            fn from(layer: $name) -> Layer {
                Layer::$name(layer)
            }
        })*
    };
}

layers! {
    Linear: "`y = x Wᵀ + b`.",
    Conv2d: "Cross-correlation with square kernels.",
    BatchNorm: "Normalises each channel over the batch.",
    LayerNorm: "Normalises each sample.",
    GroupNorm: "Normalises runs of channels of each sample.",
    Relu: "`max(x, 0)`.",
    Gelu: "`x Φ(x)`.",
    Tanh: "`tanh x`.",
    Dropout: "Sets a share of the values to zero while training.",
    MaxPool2d: "The largest value of each window.",
    AvgPool2d: "The mean of each window.",
    AdaptiveAvgPool2d: "Means over windows such that the output has a given size.",
    Flatten: "Channels and positions in one axis.",
    Sequence: "Layers one after the other.",
    Add: "The sum of branches: residual blocks.",
    Concat: "The channels of branches side by side.",
}

/// Plan and forward pass of one layer type.
pub(crate) trait LayerRule {
    /// Checks the input, declares the tensors with the axes that they tie, and says what flows out.
    ///
    /// An error leaves the layer's name empty: the sequence around it fills it in.
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow>;

    /// The layers inside this one, branch by branch.
    fn branches(&self) -> &[Sequence] {
        &[]
    }

    /// Output for a batch `x: [batch, ...]`; takes its tensors from `values` in the order in which it declared them.
    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor>;
}

/// What flows from layer to layer: the shape of one sample, and the symbols of its first axis (channels or units).
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub shape: Vec<i64>,
    pub axis: Axis,
}

impl Flow {
    /// The same units at other positions, `shape: [channels, ...]`.
    pub(crate) fn reshaped(self, shape: Vec<i64>) -> Flow {
        Flow { shape, ..self }
    }

    /// Channels, height and width, or the error that names what was expected.
    pub(crate) fn image(&self) -> Result<[i64; 3]> {
        self.shape.as_slice().try_into().map_err(|_| self.unfit("[channels, height, width]"))
    }

    /// The input is not what the layer expects.
    pub(crate) fn unfit(&self, expected: impl Into<String>) -> Error {
        Error::LayerShape { layer: String::new(), expected: expected.into(), given: self.shape.clone() }
    }
}

/// A layer whose own settings cannot work.
pub(crate) fn broken(reason: impl Into<String>) -> Error {
    Error::Layer { layer: String::new(), reason: reason.into() }
}

/// Sizes that a layer can state, at most: products of a few of them are far below what i64 holds.
const LARGEST_SIZE: i64 = i32::MAX as i64;
/// Values that a tensor or what flows between layers can have, at most: more than any machine's memory.
const MOST_VALUES: i64 = 1 << 48;

/// Checks a size that a layer states.
pub(crate) fn check_size(name: &str, size: i64, least: i64) -> Result<()> {
    if (least..=LARGEST_SIZE).contains(&size) {
        return Ok(());
    }
    Err(broken(format!("its {name} {size} must be at least {least} and at most {LARGEST_SIZE}")))
}

/// What norms add to the variance: PyTorch's default.
pub(crate) fn default_epsilon() -> f64 {
    1e-5
}

/// Checks what a norm adds to the variance.
pub(crate) fn check_epsilon(epsilon: f64) -> Result<()> {
    if epsilon > 0.0 && epsilon.is_finite() {
        return Ok(());
    }
    Err(broken(format!("its epsilon {epsilon} must be positive and finite, such as 1e-5")))
}

/// Number of values of a shape whose sides were checked, if any machine could hold them.
pub(crate) fn check_values(what: &str, shape: &[i64]) -> Result<i64> {
    let values = shape.iter().try_fold(1i64, |product, &side| product.checked_mul(side));
    let fits = values.filter(|values| (0..=MOST_VALUES).contains(values));
    fits.ok_or_else(|| broken(format!("{what} of shape {shape:?} is larger than any memory")))
}

/// Everything that follows from a network's description.
#[derive(Default)]
pub(crate) struct Plan {
    pub ties: Ties,
    pub parameters: Vec<TensorPlan>,
    pub buffers: Vec<TensorPlan>,
    pub layers: Vec<LayerPlan>,
    /// Names of the layers around the one that is being planned.
    path: Vec<String>,
}

/// A tensor that a layer declared.
pub(crate) struct TensorPlan {
    pub layer: String,
    pub name: String,
    pub axes: Vec<Axis>,
    pub init: Init,
    /// Whether its values are variances, which are never below 0.
    pub variance: bool,
}

impl TensorPlan {
    pub(crate) fn shape(&self) -> Vec<i64> {
        self.axes.iter().map(Axis::size).collect()
    }
}

/// A layer as the summary shows it.
pub(crate) struct LayerPlan {
    pub name: String,
    pub kind: &'static str,
    pub output: Flow,
    /// Trainable values.
    pub parameters: i64,
}

/// Initial values of a tensor.
pub(crate) enum Init {
    /// Uniform in `[-bound, bound]`.
    Uniform(f32),
    Constant(f32),
}

impl Init {
    pub(crate) fn draw(&self, n: i64, rng: &mut ChaCha8Rng) -> Vec<f32> {
        match *self {
            Init::Uniform(bound) => (0..n).map(|_| rng.random_range(-bound..=bound)).collect(),
            Init::Constant(value) => vec![value; n as usize],
        }
    }
}

impl Plan {
    /// Declares a trainable tensor with these axes; its shape follows from them.
    pub(crate) fn parameter(&mut self, name: &str, axes: impl Into<Vec<Axis>>, init: Init) {
        let tensor = self.tensor(name, axes.into(), init);
        self.parameters.push(tensor);
    }

    /// Declares the running mean and variance of channels, which are no parameters: they move with their channels, but
    /// have no gradient and enter no matching.
    pub(crate) fn running_statistics(&mut self, axis: &Axis) {
        let mean = self.tensor("running_mean", vec![axis.clone()], Init::Constant(0.0));
        let variance = self.tensor("running_var", vec![axis.clone()], Init::Constant(1.0));
        self.buffers.extend([mean, TensorPlan { variance: true, ..variance }]);
    }

    fn tensor(&self, name: &str, axes: Vec<Axis>, init: Init) -> TensorPlan {
        let layer = self.path.join(".");
        TensorPlan { name: format!("{layer}.{name}"), layer, axes, init, variance: false }
    }

    /// Plans a layer under its name, and notes it for the summary.
    pub(crate) fn layer(&mut self, name: &str, layer: &Layer, input: Flow) -> Result<Flow> {
        self.path.push(name.to_owned());
        let path = self.path.join(".");
        if name.is_empty() || path.starts_with(crate::file::RESERVED) {
            let reason = format!("its name is empty or begins with `{}`, which checkpoints use", crate::file::RESERVED);
            return Err(Error::Layer { layer: path, reason });
        }
        if self.layers.iter().any(|earlier| earlier.name == path) {
            return Err(Error::Layer { layer: path, reason: "another layer has the same name".into() });
        }
        let before = self.parameters.len();
        let planned = layer.rule().plan(input, self).and_then(|output| {
            check_values("its output", &output.shape)?;
            let new = self.parameters[before..].iter().filter(|tensor| tensor.layer == path);
            let sizes = new.map(|tensor| check_values(&format!("its tensor `{}`", tensor.name), &tensor.shape()));
            Ok((output, sizes.sum::<Result<i64>>()?))
        });
        let (output, parameters) = planned.map_err(|error| error.in_layer(&path))?;
        self.path.pop();
        if !matches!(layer, Layer::Sequence(_)) {
            self.layers.push(LayerPlan { name: path, kind: layer.kind(), output: output.clone(), parameters });
        }
        Ok(output)
    }
}

/// The tensors of a network, taken one by one in the order of the plan.
pub(crate) struct Values<'a> {
    pub parameters: std::slice::Iter<'a, Tensor>,
    pub buffers: std::slice::Iter<'a, Tensor>,
}

impl<'a> Values<'a> {
    /// The next parameter.
    pub(crate) fn parameter(&mut self) -> Result<&'a Tensor> {
        self.parameters.next().ok_or_else(Values::exhausted)
    }

    /// The next buffer.
    pub(crate) fn buffer(&mut self) -> Result<&'a Tensor> {
        self.buffers.next().ok_or_else(Values::exhausted)
    }

    pub(crate) fn exhausted() -> Error {
        let reason = "the parameters are fewer or more than the network's".into();
        Error::Layer { layer: "the whole network".into(), reason }
    }
}

/// What an observer can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// What a linear or convolution layer multiplies by its weight, `[rows, values]`: inputs, or patches of them.
    WeightInput,
    /// The output of a linear or convolution layer.
    WeightOutput,
    /// The input of a batch norm.
    NormInput,
    /// The output of a batch norm.
    NormOutput,
}

/// Looks at tensors of some kinds on their way.
#[derive(Clone, Copy)]
pub(crate) struct Observer<'a> {
    pub kinds: &'a [Seen],
    /// Gets what it is, how many of its kind came before in this pass, and the tensor.
    pub look: &'a dyn Fn(Seen, usize, &Tensor) -> Result<()>,
}

/// How one forward pass runs.
pub(crate) struct Pass<'a> {
    pub mode: Mode,
    /// Networks that run side by side: `x: [batch, models * channels, ...]`, and each tensor has the models as its first
    /// axis ([`Params::stacked`](super::Params)). A single one has no such axis.
    pub models: i64,
    /// Seeds of the dropout masks, one a model.
    pub seeds: Vec<u64>,
    /// While training: the share of the batch's statistics that batch norm mixes into its buffers, in place.
    /// `None` leaves the buffers as they are, so that the pass is a pure function.
    pub momentum: Option<f64>,
    /// Number format of the matrix products; sums and normalisation stay in f32.
    pub precision: Kind,
    /// Whether batch norm normalises by the statistics of the batch; while training it does.
    pub batch_statistics: bool,
    /// Sees what flows through the layers.
    pub observer: Option<Observer<'a>>,
    /// Tensors of each kind shown so far.
    pub shown: Cell<[usize; 4]>,
    /// Dropout masks drawn so far.
    pub masks: Cell<u64>,
}

impl<'a> Pass<'a> {
    /// A pure pass in f32.
    pub(crate) fn new(mode: Mode) -> Pass<'a> {
        let seeds = match mode {
            Mode::Train { seed } => vec![seed],
            Mode::Eval => Vec::new(),
        };
        Pass {
            mode,
            models: 1,
            seeds,
            momentum: None,
            precision: Kind::Float,
            batch_statistics: mode != Mode::Eval,
            observer: None,
            shown: Cell::new([0; 4]),
            masks: Cell::new(0),
        }
    }

    /// A pass of models side by side in training mode, each with its own seed.
    pub(crate) fn training(seeds: Vec<u64>) -> Pass<'a> {
        let mode = Mode::Train { seed: seeds.first().copied().unwrap_or(0) };
        Pass { models: seeds.len() as i64, seeds, ..Pass::new(mode) }
    }

    /// The generators of the next dropout mask, one a model: one stream a dropout layer.
    pub(crate) fn mask_rngs(&self) -> Vec<ChaCha8Rng> {
        let number = self.masks.get();
        self.masks.set(number + 1);
        self.seeds.iter().map(|&seed| rng(seed, Purpose::Dropout(number))).collect()
    }

    /// `[batch, models * channels, ...]` as `[batch, models, channels, ...]`; flattening axes 1 and 2 undoes it.
    pub(crate) fn apart(&self, x: &Tensor) -> Result<Tensor> {
        let size = x.size();
        let mut shape = vec![size[0], self.models, size[1] / self.models];
        shape.extend(&size[2..]);
        Ok(x.f_reshape(shape)?)
    }

    /// Shows a tensor to whoever wants to see it; else it need not be made.
    pub(crate) fn show(&self, seen: Seen, tensor: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let Some(observer) = self.observer.filter(|observer| observer.kinds.contains(&seen)) else { return Ok(()) };
        let mut shown = self.shown.get();
        let place = shown[seen as usize];
        shown[seen as usize] += 1;
        self.shown.set(shown);
        (observer.look)(seen, place, &tensor()?)
    }

    /// The tensor in the number format of matrix products.
    pub(crate) fn cast(&self, tensor: &Tensor) -> Result<Tensor> {
        // Full precision means the tensors' own, so that f64 parameters give an f64 network.
        if self.precision == Kind::Float { Ok(tensor.shallow_clone()) } else { Ok(tensor.f_to_kind(self.precision)?) }
    }
}
