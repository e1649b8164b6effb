//! The networks of the paper and others in common use. Parameter names are those of the usual PyTorch modules, so that
//! their state dicts load by name ([`Model::load_state_dict`](super::Model::load_state_dict)).

mod convnet;
mod mlp;
mod resnet;
mod vgg;

pub use resnet::{CifarResNet, ImageNetResNet};
pub use vgg::Vgg;

use serde::{Deserialize, Serialize};

use super::{BatchNorm, Layer, LayerNorm};
use crate::error::{Error, Result};

/// The normalisation of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Norm {
    /// Batch norm: merged networks need their running statistics recomputed.
    #[default]
    Batch,
    /// Layer norm over channels and positions: no running statistics.
    Layer,
}

impl Norm {
    /// The layer that normalises samples of `[channels, side, side]`.
    fn layer(self, channels: i64, side: i64) -> Layer {
        match self {
            Norm::Batch => BatchNorm::new(channels).into(),
            Norm::Layer => LayerNorm::new([channels, side, side]).into(),
        }
    }
}

/// Channels of a layer in a network that is `width` times as wide as the usual one.
fn scaled(channels: i64, width: f64) -> Result<i64> {
    if !(width.is_finite() && width > 0.0 && width <= 1024.0) {
        let requirement = "a positive factor, such as 0.25 or 16";
        return Err(Error::Setting { setting: "width", value: width.to_string(), requirement });
    }
    Ok(((channels as f64 * width).round() as i64).max(1))
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    fn parameters(network: &Network) -> i64 {
        let shapes = network.tensor_shapes();
        let trained = shapes.iter().filter(|(name, _)| !name.contains("running"));
        trained.map(|(_, shape)| shape.iter().product::<i64>()).sum()
    }

    #[test]
    fn sizes_are_those_of_the_pytorch_modules() {
        // Published counts: torchvision's for ImageNet, 3 x 32 x 32 with one linear layer for CIFAR-10.
        assert_eq!(parameters(&Network::resnet18().unwrap()), 11_689_512);
        assert_eq!(parameters(&Network::resnet50().unwrap()), 25_557_032);
        assert_eq!(parameters(&Network::vgg11(1.0).unwrap()), 9_231_114);
        assert_eq!(parameters(&Network::vgg16(1.0).unwrap()), 14_728_266);
        // He et al. 2016 give 0.27 M with shortcuts without parameters; projections add 2,752.
        assert_eq!(parameters(&Network::resnet20(1.0).unwrap()), 272_474);
    }

    #[test]
    fn names_are_those_of_the_pytorch_modules() {
        let names = |network: Network| network.tensor_shapes().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let resnet = names(Network::resnet50().unwrap());
        for name in
            ["conv1.weight", "bn1.running_var", "layer1.0.downsample.1.bias", "layer4.2.conv3.weight", "fc.bias"]
        {
            assert!(resnet.iter().any(|own| own == name), "{name}");
        }
        let vgg = names(Network::vgg11(1.0).unwrap());
        for name in ["features.0.weight", "features.1.running_mean", "features.25.weight", "classifier.bias"] {
            assert!(vgg.iter().any(|own| own == name), "{name}");
        }
    }

    #[test]
    fn depths_and_widths_that_do_not_exist_are_refused() {
        let setting = |error: Error| match error {
            Error::Setting { setting, .. } => setting,
            other => panic!("{other}"),
        };
        assert_eq!(setting(CifarResNet { depth: 21, ..CifarResNet::default() }.network().unwrap_err()), "depth");
        assert_eq!(setting(Vgg { depth: 12, ..Vgg::default() }.network().unwrap_err()), "depth");
        assert_eq!(setting(Network::vgg11(0.0).unwrap_err()), "width");
        assert_eq!(setting(ImageNetResNet { depth: 19, ..ImageNetResNet::default() }.network().unwrap_err()), "depth");
    }

    #[test]
    fn layer_norm_in_place_of_batch_norm_leaves_no_buffers() {
        for network in [
            Vgg { norm: Norm::Layer, width: 0.125, ..Vgg::default() }.network().unwrap(),
            CifarResNet { norm: Norm::Layer, ..CifarResNet::default() }.network().unwrap(),
        ] {
            assert!(!network.has_batch_norm());
            assert!(!network.permutation_spec().groups().is_empty());
        }
    }

    #[test]
    fn names_of_depth_and_width_give_networks_of_that_depth_and_width() {
        let convolutions = |network: &Network| {
            network
                .tensor_shapes()
                .iter()
                .filter(|(_, shape)| shape.len() == 4)
                .map(|(_, shape)| shape[0])
                .collect::<Vec<_>>()
        };
        type Make = fn(f64) -> crate::error::Result<Network>;
        for (make, depth) in [
            (Network::vgg11 as Make, 8),
            (Network::vgg13, 10),
            (Network::vgg16, 13),
            (Network::vgg19, 16),
            (Network::resnet20, 21),
        ] {
            let (whole, half) = (convolutions(&make(1.0).unwrap()), convolutions(&make(0.5).unwrap()));
            assert_eq!(whole.len(), depth);
            assert!(whole.iter().zip(&half).all(|(whole, half)| *whole == 2 * half), "{depth}");
        }
        let names: Vec<String> =
            Network::convnet([1, 28, 28], 1.0, 10).unwrap().layers().iter().map(|(name, _)| name.clone()).collect();
        let block = |number: u8| ["conv", "bn", "relu", "pool"].map(|kind| format!("{kind}{number}"));
        let expected: Vec<String> =
            [block(1), block(2)].concat().into_iter().chain(block(3).into_iter().take(3)).collect();
        assert_eq!(names[..11], expected);
    }

    #[test]
    fn the_smallest_residual_network_has_eight_layers() {
        let network = |depth| CifarResNet { depth, ..CifarResNet::default() }.network();
        assert!(network(8).is_ok() && network(2).is_err() && network(9).is_err());
    }
}
