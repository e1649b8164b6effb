//! A sequence: named layers one after the other. As a layer of its own, its name stands before those of its layers.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::layer::{Flow, Layer, LayerRule, Pass, Plan, Values};
use crate::error::Result;

/// Named layers in order; none at all is the identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequence(Vec<(String, Layer)>);

impl Sequence {
    /// Puts layers one after the other.
    pub fn new<N: Into<String>>(layers: impl IntoIterator<Item = (N, Layer)>) -> Sequence {
        Sequence(layers.into_iter().map(|(name, layer)| (name.into(), layer)).collect())
    }

    /// Hands its input on unchanged: the shortcut of a residual block.
    pub fn identity() -> Sequence {
        Sequence::default()
    }

    /// Layers in order, with their names.
    pub fn layers(&self) -> &[(String, Layer)] {
        &self.0
    }
}

impl LayerRule for Sequence {
    fn plan(&self, input: Flow, plan: &mut Plan) -> Result<Flow> {
        self.0.iter().try_fold(input, |flow, (name, layer)| plan.layer(name, layer, flow))
    }

    fn branches(&self) -> &[Sequence] {
        std::slice::from_ref(self)
    }

    fn forward(&self, values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.0.iter().try_fold(x.shallow_clone(), |x, (_, layer)| layer.rule().forward(values, &x, pass))
    }
}
