//! Convolution with square kernels, as PyTorch's `Conv2d` (a cross-correlation):
//! `x: [batch, in, h, w]`, `W: [out, in, k, k]`, `b: [out]`, `y: [batch, out, h', w']`,
//! `h' = floor((h + 2 padding - k) / stride) + 1`.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::groups::Axis;
use super::layer::{Flow, Init, LayerRule, Pass, Plan, Seen, Values, check_size};
use crate::error::{Error, Result};

/// A convolution; its tensors are `weight: [out, in, k, k]` and, unless left out, `bias: [out]`.
///
/// ```
/// use stemm::network::{Conv2d, Network};
/// let halved = Conv2d::new(3, 16, 3).stride(2).padding(1).without_bias();
/// assert_eq!(Network::new([3, 32, 32], [("conv1", halved.into())])?.output_shape(), [16, 16, 16]);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conv2d {
    inputs: i64,
    outputs: i64,
    kernel: i64,
    stride: i64,
    padding: i64,
    bias: bool,
}

impl Conv2d {
    /// Describes a convolution from `inputs` to `outputs` channels with `kernel x kernel` weights each; stride 1,
    /// no padding, with bias.
    pub fn new(inputs: i64, outputs: i64, kernel: i64) -> Conv2d {
        Conv2d { inputs, outputs, kernel, stride: 1, padding: 0, bias: true }
    }

    /// Moves the kernel by `stride` positions at a time.
    pub fn stride(self, stride: i64) -> Conv2d {
        Conv2d { stride, ..self }
    }

    /// Adds `padding` zeros on each side.
    pub fn padding(self, padding: i64) -> Conv2d {
        Conv2d { padding, ..self }
    }

    /// Leaves out the bias, as before a batch norm.
    pub fn without_bias(self) -> Conv2d {
        Conv2d { bias: false, ..self }
    }
}

impl LayerRule for Conv2d {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        check_size("number of input channels", self.inputs, 1)?;
        check_size("number of output channels", self.outputs, 1)?;
        let window = Window { kernel: self.kernel, stride: self.stride, padding: self.padding };
        let [channels, height, width] = input.image()?;
        let size = window.output_size([height, width])?;
        match size {
            Some([height, width]) if channels == self.inputs => {
                let bound = 1.0 / (self.inputs as f32 * (self.kernel as f32).powi(2)).sqrt();
                let output = plan.ties.new_axis(self.outputs);
                let axes = [output.clone(), input.axis, Axis::fixed(self.kernel), Axis::fixed(self.kernel)];
                plan.parameter("weight", axes, Init::Uniform(bound));
                if self.bias {
                    plan.parameter("bias", [output.clone()], Init::Uniform(bound));
                }
                Ok(Flow { shape: vec![self.outputs, height, width], axis: output })
            }
            _ => Err(input.unfit(format!("[{}, {}]", self.inputs, window.expected()))),
        }
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let weight = pass.cast(values.parameter()?)?;
        let bias = if self.bias { Some(pass.cast(values.parameter()?)?) } else { None };
        // Models side by side are groups of channels.
        let weight = weight.f_flatten(0, weight.dim() as i64 - 4)?;
        let bias = bias.map(|bias| bias.f_flatten(0, -1)).transpose()?;
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        pass.show(Seen::WeightInput, || {
            // [batch, values of a patch, places]
            let patches = x.f_im2col([self.kernel; 2], [1, 1], padding, stride)?;
            Ok(patches.f_transpose(1, 2)?.f_flatten(0, 1)?)
        })?;
        let y = pass.cast(x)?.f_conv2d(&weight, bias.as_ref(), stride, padding, [1, 1], pass.models)?;
        pass.show(Seen::WeightOutput, || Ok(y.shallow_clone()))?;
        Ok(y)
    }
}

/// A square window that moves over an image: kernels and pools.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub kernel: i64,
    pub stride: i64,
    pub padding: i64,
}

impl Window {
    /// Height and width of the output, or `None` if the window is larger than the padded image.
    pub(super) fn output_size(&self, size: [i64; 2]) -> Result<Option<[i64; 2]>, Error> {
        for (name, size, least) in
            [("kernel", self.kernel, 1), ("stride", self.stride, 1), ("padding", self.padding, 0)]
        {
            check_size(name, size, least)?;
        }
        let room = size.map(|side| side + 2 * self.padding - self.kernel);
        Ok(room.iter().all(|&room| room >= 0).then(|| room.map(|room| room / self.stride + 1)))
    }

    /// What an image must be like, for errors.
    pub(super) fn expected(&self) -> String {
        let least = (self.kernel - 2 * self.padding).max(1);
        format!("at least {least}, at least {least}")
    }
}
