//! A small convolutional network for teaching.

use super::scaled;
use crate::error::Result;
use crate::network::{AdaptiveAvgPool2d, BatchNorm, Conv2d, Flatten, Layer, Linear, MaxPool2d, Network, Relu};

impl Network {
    /// Three convolutions with batch norm, each with twice the channels of the one before (16, 32, 64 times `width`),
    /// and a linear layer; for square images of `input: [channels, side, side]` with a side of at least 4.
    ///
    /// # Errors
    /// A width that is not positive, images that are too small.
    ///
    /// ```
    /// let network = stemm::network::Network::convnet([1, 28, 28], 1.0, 10)?;
    /// assert_eq!(network.permutation_spec().groups().len(), 3);
    /// # Ok::<(), stemm::Error>(())
    /// ```
    pub fn convnet(input: [i64; 3], width: f64, classes: i64) -> Result<Network> {
        let [mut channels, ..] = input;
        let mut layers: Vec<(String, Layer)> = Vec::new();
        for (number, base) in (1..).zip([16, 32, 64]) {
            let outputs = scaled(base, width)?;
            layers.push((format!("conv{number}"), Conv2d::new(channels, outputs, 3).padding(1).without_bias().into()));
            layers.push((format!("bn{number}"), BatchNorm::new(outputs).into()));
            layers.push((format!("relu{number}"), Relu.into()));
            if number < 3 {
                layers.push((format!("pool{number}"), MaxPool2d::new(2).into()));
            }
            channels = outputs;
        }
        layers.push(("avgpool".to_owned(), AdaptiveAvgPool2d::new([1, 1]).into()));
        layers.push(("flatten".to_owned(), Flatten.into()));
        layers.push(("fc".to_owned(), Linear::new(channels, classes).into()));
        Network::new(input, layers)
    }
}
