//! Dropout (Srivastava et al. 2014): while training, each value is set to zero with probability `p` and the others are
//! divided by `1 - p`. The mask depends on the seed of [`Mode::Train`] only, so that the pass stays a pure function.

use rand::RngExt;
use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::Mode;
use super::layer::{Flow, LayerRule, Pass, Plan, Values, broken};
use crate::error::Result;

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
        let threshold = (self.probability * f64::from(u32::MAX)) as u32;
        let kept = (1.0 / (1.0 - self.probability)) as f32;
        let mut shape = x.size();
        shape[1] /= pass.models;
        let masks = pass.mask_rngs().into_iter().map(|mut rng| -> Result<Tensor> {
            let mut words = vec![0u32; shape.iter().product::<i64>() as usize];
            rng.fill(&mut words); // blocks of the cipher side by side, which a word at a time is not
            let mask: Vec<f32> = words.into_iter().map(|word| if word < threshold { 0.0 } else { kept }).collect();
            Ok(Tensor::f_from_slice(&mask)?.f_view(shape.as_slice())?)
        });
        let mask = Tensor::f_cat(&masks.collect::<Result<Vec<Tensor>>>()?, 1)?;
        Ok(x.f_mul(&mask.f_to_kind(x.kind())?.f_to_device(x.device())?)?)
    }
}
