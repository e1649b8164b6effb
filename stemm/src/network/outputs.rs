//! The outputs of layers on data: of every linear and convolution layer, before its activation, and after its batch norm
//! where one follows.

use std::cell::RefCell;

use tch::Tensor;

use super::layer::{Observer, Pass, Seen};
use super::{AxisSegment, Layer, Mode, Network, Params, Sequence};
use crate::error::{Error, Result};

/// A layer's output: the place at which a pass shows it, and the groups that its channels or units belong to.
#[derive(Clone, Debug)]
pub(crate) struct UnitOutput {
    /// Name of the linear or convolution layer.
    pub layer: String,
    seen: Seen,
    place: usize,
    /// The segments of the channels; no group: outputs of the network.
    pub axis: Vec<AxisSegment>,
}

impl Network {
    /// The outputs of all linear and convolution layers, in order.
    pub(crate) fn unit_outputs(&self) -> Result<Vec<UnitOutput>> {
        let (spec, layers) = (self.permutation_spec(), self.weight_layers()?);
        let mut places = Places::default();
        places.visit(&self.layers);
        let outputs = layers.into_iter().zip(places.outputs).map(|(layer, (seen, place))| {
            let axis = spec.axes()[layer.weight][0].clone();
            UnitOutput { layer: layer.name, seen, place, axis }
        });
        Ok(outputs.collect())
    }

    /// Some of a model's outputs for a batch, `[batch, units, ...]`, in evaluation mode.
    pub(crate) fn outputs(&self, params: &Params, x: &Tensor, wanted: &[UnitOutput]) -> Result<Vec<Tensor>> {
        let found: Vec<RefCell<Option<Tensor>>> = wanted.iter().map(|_| RefCell::default()).collect();
        let look = |seen: Seen, place: usize, tensor: &Tensor| {
            for (output, found) in wanted.iter().zip(&found) {
                if (output.seen, output.place) == (seen, place) {
                    *found.borrow_mut() = Some(tensor.shallow_clone());
                }
            }
            Ok(())
        };
        let kinds = [Seen::WeightOutput, Seen::NormOutput];
        let pass = Pass { observer: Some(Observer { kinds: &kinds, look: &look }), ..Pass::new(Mode::Eval) };
        let _ = self.run(params, x, &pass)?; // what is wanted was seen on the way
        let missing = |output: &UnitOutput| Error::Empty { what: format!("the output of layer `{}`", output.layer) };
        let found = found.into_iter().zip(wanted);
        found.map(|(found, output)| found.into_inner().ok_or_else(|| missing(output))).collect()
    }
}

/// `[batch, units, ...]` as `[units, samples]`: positions count as samples.
pub(crate) fn by_unit(output: &Tensor) -> Result<Tensor> {
    Ok(output.f_movedim_int(1, 0)?.f_reshape([output.size()[1], -1])?)
}

/// Counts weights and norms in the order of a pass.
#[derive(Default)]
struct Places {
    weights: usize,
    norms: usize,
    outputs: Vec<(Seen, usize)>,
}

impl Places {
    fn visit(&mut self, sequence: &Sequence) {
        let layers = sequence.layers();
        for (index, (_, layer)) in layers.iter().enumerate() {
            match layer {
                Layer::Linear(_) | Layer::Conv2d(_) => {
                    let normed = matches!(layers.get(index + 1), Some((_, Layer::BatchNorm(_))));
                    let weight = (Seen::WeightOutput, self.weights);
                    self.outputs.push(if normed { (Seen::NormOutput, self.norms) } else { weight });
                    self.weights += 1;
                }
                Layer::BatchNorm(_) => self.norms += 1,
                other => other.rule().branches().iter().for_each(|branch| self.visit(branch)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Add, BatchNorm, Conv2d, Flatten, Linear, Relu};
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn outputs_are_those_after_the_norm_and_before_the_activation() -> Result<()> {
        let conv = |name: &'static str| (name, Layer::from(Conv2d::new(2, 2, 1)));
        let network = Network::new(
            [2, 3, 3],
            [
                conv("stem"),
                ("norm", BatchNorm::new(2).into()),
                ("relu", Relu.into()),
                (
                    "block",
                    Add::residual([
                        conv("plain"),
                        ("act", Relu.into()),
                        conv("normed"),
                        ("n", BatchNorm::new(2).into()),
                    ])
                    .into(),
                ),
                ("flatten", Flatten.into()),
                ("head", Linear::new(18, 3).into()),
            ],
        )?;
        let outputs = network.unit_outputs()?;
        let names: Vec<&str> = outputs.iter().map(|output| output.layer.as_str()).collect();
        assert_eq!(names, ["stem", "block.plain", "block.normed", "head"]);
        let (x, mut params) = (Tensor::randn([4, 2, 3, 3], (Kind::Float, Device::Cpu)), network.init(0, Device::Cpu)?);
        // Norms that change what they get.
        params = params.map(|tensor| Ok(if tensor.dim() == 1 { tensor + 0.5 } else { tensor.shallow_clone() }))?;
        let found = network.outputs(&params, &x, &outputs)?;
        let norm = |x: &Tensor, name: &str| {
            let own = |part: &str| params.get(&format!("{name}.{part}")).unwrap().view([1, 2, 1, 1]);
            (x - own("running_mean")) / (own("running_var") + 1e-5).sqrt() * own("weight") + own("bias")
        };
        let conv = |x: &Tensor, name: &str| {
            let bias = params.get(&format!("{name}.bias"));
            x.conv2d(params.get(&format!("{name}.weight")).unwrap(), bias, [1, 1], [0, 0], [1, 1], 1)
        };
        let stem = norm(&conv(&x, "stem"), "norm");
        let plain = conv(&stem.relu(), "block.plain");
        let normed = norm(&conv(&plain.relu(), "block.normed"), "block.n");
        for (found, expected) in found.iter().zip([stem, plain, normed]) {
            assert!((found - expected).abs().max().double_value(&[]) < 1e-5);
        }
        assert_eq!((found[3].size(), outputs[3].axis[0].group), (vec![4, 3], None));
        assert_eq!(by_unit(&found[0])?.get(1), found[0].select(1, 1).reshape([-1]));
        Ok(())
    }
}
