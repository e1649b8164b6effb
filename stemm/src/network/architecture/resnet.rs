//! Residual networks (He et al. 2016): the family of depth 6n + 2 for 3 x 32 x 32, and torchvision's for 3 x 224 x 224.
//! Where a block changes the shape, its shortcut is a 1 x 1 convolution with a norm (`downsample`).

use super::{Norm, scaled};
use crate::error::{Error, Result};
use crate::network::{AdaptiveAvgPool2d, Add, Conv2d, Flatten, Layer, Linear, MaxPool2d, Network, Relu, Sequence};

/// Settings of a residual network for 3 x 32 x 32.
///
/// ```
/// use stemm::network::architecture::CifarResNet;
/// let network = CifarResNet { depth: 32, width: 2.0, ..CifarResNet::default() }.network()?;
/// assert_eq!(network.permutation_spec().groups()[0].size, 32);
/// # Ok::<(), stemm::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CifarResNet {
    /// 6n + 2 layers with weights: 20, 32, 44, 56, 110, ...
    pub depth: usize,
    /// Factor for the numbers of channels (16, 32, 64).
    pub width: f64,
    /// Normalisation after each convolution.
    pub norm: Norm,
    /// Number of outputs.
    pub classes: i64,
}

impl Default for CifarResNet {
    fn default() -> Self {
        CifarResNet { depth: 20, width: 1.0, norm: Norm::Batch, classes: 10 }
    }
}

impl CifarResNet {
    /// The network.
    ///
    /// # Errors
    /// A depth that is not 6n + 2, a width that is not positive.
    pub fn network(&self) -> Result<Network> {
        if self.depth < 8 || self.depth % 6 != 2 {
            let requirement = "6n + 2, such as 20, 32 or 56";
            return Err(Error::Setting { setting: "depth", value: self.depth.to_string(), requirement });
        }
        let norm = self.norm;
        let stem = scaled(16, self.width)?;
        let mut layers: Vec<(String, Layer)> = vec![
            ("conv1".into(), Conv2d::new(3, stem, 3).padding(1).without_bias().into()),
            ("bn1".into(), norm.layer(stem, 32)),
            ("relu".into(), Relu.into()),
        ];
        let (mut channels, mut side) = (stem, 32);
        for (stage, base) in (1..).zip([16, 32, 64]) {
            for block in 0..(self.depth - 2) / 6 {
                let stride = if stage > 1 && block == 0 { 2 } else { 1 };
                let shape =
                    BlockShape { inputs: channels, outputs: scaled(base, self.width)?, stride, side: side / stride };
                layers.extend(shape.block(&format!("layer{stage}.{block}"), norm, shape.basic(norm), shape.outputs));
                (channels, side) = (shape.outputs, shape.side);
            }
        }
        layers.extend(head(channels, self.classes));
        Network::new([3, 32, 32], layers)
    }
}

/// Settings of a residual network for 3 x 224 x 224, as torchvision's.
#[derive(Clone, Debug)]
pub struct ImageNetResNet {
    /// 18, 34 (two convolutions a block), 50, 101 or 152 (three).
    pub depth: usize,
    /// Factor for the numbers of channels (64 to 512).
    pub width: f64,
    /// Normalisation after each convolution.
    pub norm: Norm,
    /// Number of outputs.
    pub classes: i64,
}

impl Default for ImageNetResNet {
    fn default() -> Self {
        ImageNetResNet { depth: 18, width: 1.0, norm: Norm::Batch, classes: 1000 }
    }
}

impl ImageNetResNet {
    /// The network.
    ///
    /// # Errors
    /// A depth that does not exist, a width that is not positive.
    pub fn network(&self) -> Result<Network> {
        let (stages, bottleneck) = match self.depth {
            18 => ([2, 2, 2, 2], false),
            34 => ([3, 4, 6, 3], false),
            50 => ([3, 4, 6, 3], true),
            101 => ([3, 4, 23, 3], true),
            152 => ([3, 8, 36, 3], true),
            depth => {
                let requirement = "18, 34, 50, 101 or 152";
                return Err(Error::Setting { setting: "depth", value: depth.to_string(), requirement });
            }
        };
        let norm = self.norm;
        let stem = scaled(64, self.width)?;
        let mut layers: Vec<(String, Layer)> = vec![
            ("conv1".into(), Conv2d::new(3, stem, 7).stride(2).padding(3).without_bias().into()),
            ("bn1".into(), norm.layer(stem, 112)),
            ("relu".into(), Relu.into()),
            ("maxpool".into(), MaxPool2d::new(3).stride(2).padding(1).into()),
        ];
        let (mut channels, mut side) = (stem, 56);
        for (stage, (blocks, base)) in (1..).zip(stages.into_iter().zip([64, 128, 256, 512])) {
            for block in 0..blocks {
                let stride = if stage > 1 && block == 0 { 2 } else { 1 };
                let shape =
                    BlockShape { inputs: channels, outputs: scaled(base, self.width)?, stride, side: side / stride };
                let name = format!("layer{stage}.{block}");
                if bottleneck {
                    layers.extend(shape.block(&name, norm, shape.bottleneck(norm), 4 * shape.outputs));
                    channels = 4 * shape.outputs;
                } else {
                    layers.extend(shape.block(&name, norm, shape.basic(norm), shape.outputs));
                    channels = shape.outputs;
                }
                side = shape.side;
            }
        }
        layers.extend(head(channels, self.classes));
        Network::new([3, 224, 224], layers)
    }
}

/// Channels, stride and output side of one block.
#[derive(Clone, Copy)]
struct BlockShape {
    inputs: i64,
    outputs: i64,
    stride: i64,
    side: i64,
}

impl BlockShape {
    /// Two 3 x 3 convolutions.
    fn basic(&self, norm: Norm) -> Vec<(&'static str, Layer)> {
        vec![
            ("conv1", Conv2d::new(self.inputs, self.outputs, 3).stride(self.stride).padding(1).without_bias().into()),
            ("bn1", norm.layer(self.outputs, self.side)),
            ("relu1", Relu.into()),
            ("conv2", Conv2d::new(self.outputs, self.outputs, 3).padding(1).without_bias().into()),
            ("bn2", norm.layer(self.outputs, self.side)),
        ]
    }

    /// A 3 x 3 convolution, which has the stride, between two of 1 x 1; the last one has four times the channels.
    fn bottleneck(&self, norm: Norm) -> Vec<(&'static str, Layer)> {
        let n = self.outputs;
        vec![
            ("conv1", Conv2d::new(self.inputs, n, 1).without_bias().into()),
            ("bn1", norm.layer(n, self.side * self.stride)),
            ("relu1", Relu.into()),
            ("conv2", Conv2d::new(n, n, 3).stride(self.stride).padding(1).without_bias().into()),
            ("bn2", norm.layer(n, self.side)),
            ("relu2", Relu.into()),
            ("conv3", Conv2d::new(n, 4 * n, 1).without_bias().into()),
            ("bn3", norm.layer(4 * n, self.side)),
        ]
    }

    /// The sum of the layers and the shortcut, and the ReLU after it.
    fn block(&self, name: &str, norm: Norm, body: Vec<(&'static str, Layer)>, outputs: i64) -> [(String, Layer); 2] {
        let shortcut = if self.stride == 1 && self.inputs == outputs {
            Sequence::identity()
        } else {
            let projection = Conv2d::new(self.inputs, outputs, 1).stride(self.stride).without_bias();
            Sequence::new([("downsample.0", projection.into()), ("downsample.1", norm.layer(outputs, self.side))])
        };
        let sum = Add::new([Sequence::new(body), shortcut]);
        [(name.to_owned(), sum.into()), (format!("{name}.relu"), Relu.into())]
    }
}

fn head(channels: i64, classes: i64) -> [(String, Layer); 3] {
    [
        ("avgpool".into(), AdaptiveAvgPool2d::new([1, 1]).into()),
        ("flatten".into(), Flatten.into()),
        ("fc".into(), Linear::new(channels, classes).into()),
    ]
}

impl Network {
    /// ResNet20 for 3 x 32 x 32 with batch norm, `width` times as wide as usual, ten classes; the paper uses width 16.
    /// Other settings: [`CifarResNet`].
    pub fn resnet20(width: f64) -> Result<Network> {
        CifarResNet { width, ..CifarResNet::default() }.network()
    }

    /// ResNet18 for 3 x 224 x 224, 1000 classes, as torchvision's. Other settings: [`ImageNetResNet`].
    pub fn resnet18() -> Result<Network> {
        ImageNetResNet::default().network()
    }

    /// ResNet50 for 3 x 224 x 224, 1000 classes, as torchvision's. Other settings: [`ImageNetResNet`].
    pub fn resnet50() -> Result<Network> {
        ImageNetResNet { depth: 50, ..ImageNetResNet::default() }.network()
    }
}
