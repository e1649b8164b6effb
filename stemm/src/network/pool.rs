//! Pooling: each channel by itself, over windows of positions; `[batch, c, h, w]` to `[batch, c, h', w']`.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::conv2d::Window;
use super::layer::{Flow, LayerRule, Pass, Plan, Values, broken, check_size};
use crate::error::Result;

/// The largest value of each window; padding counts as minus infinity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaxPool2d {
    kernel: i64,
    stride: i64,
    padding: i64,
}

impl MaxPool2d {
    /// Windows of `kernel x kernel` positions side by side.
    pub fn new(kernel: i64) -> MaxPool2d {
        MaxPool2d { kernel, stride: kernel, padding: 0 }
    }

    /// Moves the window by `stride` positions at a time.
    pub fn stride(self, stride: i64) -> MaxPool2d {
        MaxPool2d { stride, ..self }
    }

    /// Adds `padding` positions on each side, at most half a window.
    pub fn padding(self, padding: i64) -> MaxPool2d {
        MaxPool2d { padding, ..self }
    }
}

/// The mean of each window; zeros of the padding count, as by PyTorch's default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvgPool2d {
    kernel: i64,
    stride: i64,
    padding: i64,
}

impl AvgPool2d {
    /// Windows of `kernel x kernel` positions side by side.
    pub fn new(kernel: i64) -> AvgPool2d {
        AvgPool2d { kernel, stride: kernel, padding: 0 }
    }

    /// Moves the window by `stride` positions at a time.
    pub fn stride(self, stride: i64) -> AvgPool2d {
        AvgPool2d { stride, ..self }
    }

    /// Adds `padding` zeros on each side, at most half a window.
    pub fn padding(self, padding: i64) -> AvgPool2d {
        AvgPool2d { padding, ..self }
    }
}

/// Means over windows such that the output has a given height and width, as PyTorch's `AdaptiveAvgPool2d`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdaptiveAvgPool2d {
    size: [i64; 2],
}

impl AdaptiveAvgPool2d {
    /// An output of `size: [height, width]`; `[1, 1]` is the mean over all positions.
    pub fn new(size: [i64; 2]) -> AdaptiveAvgPool2d {
        AdaptiveAvgPool2d { size }
    }
}

fn plan_window(window: Window, input: Flow) -> Result<Flow> {
    if window.padding > window.kernel / 2 {
        let (padding, kernel) = (window.padding, window.kernel);
        return Err(broken(format!("its padding {padding} is more than half of its window of {kernel}")));
    }
    let [channels, height, width] = input.image()?;
    match window.output_size([height, width])? {
        Some([height, width]) => Ok(input.reshaped(vec![channels, height, width])),
        None => Err(input.unfit(format!("[channels, {}]", window.expected()))),
    }
}

impl LayerRule for MaxPool2d {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        plan_window(Window { kernel: self.kernel, stride: self.stride, padding: self.padding }, input)
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_max_pool2d([self.kernel; 2], [self.stride; 2], [self.padding; 2], [1, 1], false)?)
    }
}

impl LayerRule for AvgPool2d {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        plan_window(Window { kernel: self.kernel, stride: self.stride, padding: self.padding }, input)
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_avg_pool2d([self.kernel; 2], [self.stride; 2], [self.padding; 2], false, true, None)?)
    }
}

impl LayerRule for AdaptiveAvgPool2d {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        let [channels, ..] = input.image()?;
        self.size.iter().try_for_each(|&side| check_size("output side", side, 1))?;
        Ok(input.reshaped(vec![channels, self.size[0], self.size[1]]))
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, _pass: &Pass) -> Result<Tensor> {
        Ok(x.f_adaptive_avg_pool2d(self.size)?)
    }
}
