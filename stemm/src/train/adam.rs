//! Adam (Kingma & Ba 2015) with bias correction, no weight decay:
//! `m ← β₁ m + (1-β₁) g`, `v ← β₂ v + (1-β₂) g²`, `w ← w - lr · m̂ / (√v̂ + ε)`.

use tch::Tensor;

use crate::error::Result;
use crate::network::Params;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// Optimiser state of one set of parameters.
pub(crate) struct Adam {
    learning_rate: f64,
    pub(crate) steps: usize,
    pub(crate) first_moments: Params,
    pub(crate) second_moments: Params,
}

impl Adam {
    pub(crate) fn new(params: &Params, learning_rate: f64) -> Result<Adam> {
        let zeros = || params.map(|tensor| Ok(tensor.f_detach()?.f_zeros_like()?));
        Ok(Adam { learning_rate, steps: 0, first_moments: zeros()?, second_moments: zeros()? })
    }

    /// Updates `params` in place with the gradients `scale * gradients`.
    pub(crate) fn step(&mut self, params: &Params, gradients: &[Tensor], scale: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let step_size = self.learning_rate / (1.0 - BETA1.powi(steps));
        let root_correction = (1.0 - BETA2.powi(steps)).sqrt();
        let moments = self.first_moments.tensors().iter().zip(self.second_moments.tensors());
        for ((param, gradient), (m, v)) in params.tensors().iter().zip(gradients).zip(moments) {
            let (mut param, mut m, mut v) = (param.shallow_clone(), m.shallow_clone(), v.shallow_clone());
            let gradient = if scale == 1.0 { gradient.shallow_clone() } else { gradient.f_mul_scalar(scale)? };
            let _ = m.f_lerp_(&gradient, 1.0 - BETA1)?;
            let _ = v.f_mul_scalar_(BETA2)?.f_addcmul_(&gradient, &gradient.f_mul_scalar(1.0 - BETA2)?)?;
            let mut denominator = v.f_sqrt()?;
            let _ = denominator.f_div_scalar_(root_correction)?.f_add_scalar_(EPSILON)?;
            let _ = param.f_addcdiv_(&m.f_mul_scalar(-step_size)?, &denominator)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formulas_on_one_number() -> Result<()> {
        let params = Params::new([("w".to_owned(), Tensor::from_slice(&[1.0f64]))]);
        let mut adam = Adam::new(&params, 0.1)?;
        let (mut w, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for t in 1..=5 {
            let g = 2.0 * w + f64::from(t);
            adam.step(&params, &[Tensor::from_slice(&[g / 0.5])], 0.5)?;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            w -= 0.1 * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            let ours = params.tensors()[0].double_value(&[0]);
            assert!((ours - w).abs() < 1e-12, "step {t}: {ours} {w}");
        }
        Ok(())
    }
}
