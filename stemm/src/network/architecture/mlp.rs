//! Multi-layer perceptrons: the paper's networks for MNIST and Fashion-MNIST.

use crate::error::{Error, Result};
use crate::network::{Linear, Network, Relu};

impl Network {
    /// A multi-layer perceptron: linear layers `layer1`, `layer2`, ... with ReLU between them.
    ///
    /// Images are flattened: `widths[0]` is the number of pixels. The paper's network for MNIST and Fashion-MNIST is
    /// `Network::mlp(&[784, 512, 512, 512, 10])`.
    ///
    /// # Errors
    /// Fewer than two widths, or a width below 1.
    pub fn mlp(widths: &[i64]) -> Result<Network> {
        let last = widths.len().saturating_sub(1);
        if last == 0 {
            return Err(Error::Setting {
                setting: "widths",
                value: format!("{widths:?}"),
                requirement: "a list of at least two widths: input, hidden layers, output",
            });
        }
        let mut layers = Vec::new();
        for (index, pair) in (1..).zip(widths.windows(2)) {
            layers.push((format!("layer{index}"), Linear::new(pair[0], pair[1]).into()));
            if index < last {
                layers.push((format!("relu{index}"), Relu.into()));
            }
        }
        Network::new([widths[0]], layers)
    }
}
