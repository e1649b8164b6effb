//! Dropout (Srivastava et al. 2014): while training, each value is set to zero with probability `p` and the others are
//! divided by `1 - p`. The mask depends on the seed of [`Mode::Train`] only, so that the pass stays a pure function.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Mode;
use super::layer::{Flow, LayerRule, Pass, Plan, Values, broken};
use crate::error::Result;
use crate::rng::uniform;

/// Dropout with a probability in `0.0..1.0`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    probability: f64,
}

impl Dropout {
    /// Sets values to zero with this probability.
    pub fn new(probability: f64) -> Dropout {
        Dropout { probability }
    }
}

impl LayerRule for Dropout {
    fn plan(&self, input: Flow, _plan: &mut Plan) -> Result<Flow> {
        if !(0.0..1.0).contains(&self.probability) {
            return Err(broken(format!("its probability {} must be at least 0 and below 1", self.probability)));
        }
        Ok(input)
    }

    fn forward(&self, _values: &mut Values, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        if pass.mode == Mode::Eval {
            return Ok(x.shallow_clone());
        }
        let mut shape = x.size();
        shape[1] /= pass.models;
        let masks = pass
            .mask_rngs()
            .into_iter()
            .map(|mut rng| -> Result<Tensor> { Ok(uniform(&shape, &mut rng, x.device())?.f_ge(self.probability)?) });
        let mask = Tensor::f_cat(&masks.collect::<Result<Vec<Tensor>>>()?, 1)?.f_to_kind(x.kind())?;
        Ok(x.f_mul(&mask.f_mul_scalar(1.0 / (1.0 - self.probability))?)?)
    }
}
