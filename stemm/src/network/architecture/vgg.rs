//! VGG (Simonyan & Zisserman 2015) for 3 x 32 x 32: `features` as in torchvision, `classifier` one linear layer.

use super::{Norm, scaled};
use crate::error::{Error, Result};
use crate::network::{Conv2d, Flatten, Layer, Linear, MaxPool2d, Network, Relu, Sequence};

/// Settings of a VGG network for 3 x 32 x 32.
///
/// ```
/// use stemm::network::architecture::{Norm, Vgg};
/// let network = Vgg { depth: 13, width: 0.25, norm: Norm::Layer, classes: 100 }.network()?;
/// assert_eq!(network.output_shape(), [100]);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Vgg {
    /// 11, 13, 16 or 19 layers with weights.
    pub depth: usize,
    /// Factor for the numbers of channels (64 to 512).
    pub width: f64,
    /// Normalisation after each convolution.
    pub norm: Norm,
    /// Number of outputs.
    pub classes: i64,
}

impl Default for Vgg {
    fn default() -> Self {
        Vgg { depth: 11, width: 1.0, norm: Norm::Batch, classes: 10 }
    }
}

impl Vgg {
    /// The network.
    ///
    /// # Errors
    /// A depth that does not exist, a width that is not positive.
    pub fn network(&self) -> Result<Network> {
        // Convolutions of each of the five stages, which end with a pool.
        let stages = match self.depth {
            11 => [1, 1, 2, 2, 2],
            13 => [2, 2, 2, 2, 2],
            16 => [2, 2, 3, 3, 3],
            19 => [2, 2, 4, 4, 4],
            depth => {
                let requirement = "11, 13, 16 or 19";
                return Err(Error::Setting { setting: "depth", value: depth.to_string(), requirement });
            }
        };
        let (mut inputs, mut side) = (3, 32);
        let mut features: Vec<Layer> = Vec::new();
        for (convolutions, base) in stages.into_iter().zip([64, 128, 256, 512, 512]) {
            let outputs = scaled(base, self.width)?;
            for _ in 0..convolutions {
                // torchvision keeps the biases before the norms.
                features.push(Conv2d::new(inputs, outputs, 3).padding(1).into());
                features.push(self.norm.layer(outputs, side));
                features.push(Relu.into());
                inputs = outputs;
            }
            features.push(MaxPool2d::new(2).into());
            side /= 2;
        }
        let features = features.into_iter().enumerate().map(|(index, layer)| (index.to_string(), layer));
        Network::new(
            [3, 32, 32],
            [
                ("features", Sequence::new(features).into()),
                ("flatten", Flatten.into()),
                ("classifier", Linear::new(inputs, self.classes).into()),
            ],
        )
    }
}

impl Network {
    /// VGG11 for 3 x 32 x 32 with batch norm, `width` times as wide as usual, ten classes; the paper uses width 4.
    /// Other settings: [`Vgg`].
    pub fn vgg11(width: f64) -> Result<Network> {
        Vgg { depth: 11, width, ..Vgg::default() }.network()
    }

    /// VGG13, as [`Network::vgg11`].
    pub fn vgg13(width: f64) -> Result<Network> {
        Vgg { depth: 13, width, ..Vgg::default() }.network()
    }

    /// VGG16, as [`Network::vgg11`].
    pub fn vgg16(width: f64) -> Result<Network> {
        Vgg { depth: 16, width, ..Vgg::default() }.network()
    }

    /// VGG19, as [`Network::vgg11`].
    pub fn vgg19(width: f64) -> Result<Network> {
        Vgg { depth: 19, width, ..Vgg::default() }.network()
    }
}
