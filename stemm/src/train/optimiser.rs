//! Optimisers, as PyTorch's:
//! Adam (Kingma & Ba 2015): `m ← β₁ m + (1-β₁) g`, `v ← β₂ v + (1-β₂) g²`, `w ← w - lr · m̂ / (√v̂ + ε)`.
//! SGD: `g ← g + λ w`, `b ← μ b + g`, `w ← w - lr · b`, with Nesterov's form `w ← w - lr · (g + μ b)`.

use multiversion::multiversion;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::error::{Error, Result};
use crate::file::{Resumed, prefixed, reserved};
use crate::network::{Params, flat};
use crate::slice;

/// The rule by which gradients change parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Optimiser {
    /// Adam with β = (0.9, 0.999), ε = 1e-8 and no weight decay.
    #[default]
    Adam,
    /// Stochastic gradient descent.
    Sgd {
        /// Share of the step before in this one, at least 0 and below 1.
        momentum: f64,
        /// Factor λ of the parameters that is added to their gradient.
        weight_decay: f64,
        /// Looks one step ahead.
        nesterov: bool,
    },
}

impl Optimiser {
    /// The paper's for CIFAR-10: momentum 0.9, weight decay 5e-4.
    pub const SGD: Optimiser = Optimiser::Sgd { momentum: 0.9, weight_decay: 5e-4, nesterov: false };

    pub(crate) fn check(&self) -> Result<()> {
        if let Optimiser::Sgd { momentum, weight_decay, .. } = *self {
            let (value, requirement) = (format!("{self:?}"), "a momentum in 0..1 and a weight decay of at least 0");
            if !((0.0..1.0).contains(&momentum) && weight_decay >= 0.0 && weight_decay.is_finite()) {
                return Err(Error::Setting { setting: "optimiser", value, requirement });
            }
        }
        Ok(())
    }
}

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// An optimiser with its memory of one set of parameters, or of several side by side: it treats each value by itself.
#[derive(Debug)]
pub(crate) struct OptimiserState {
    optimiser: Optimiser,
    pub(crate) steps: usize,
    /// Adam: first and second moments. SGD: the momentum, if there is any.
    moments: Vec<Moment>,
}

/// One number for each parameter: a vector that operations on all of them at once change, and its parts by name.
#[derive(Debug)]
struct Moment {
    all: Tensor,
    parts: Params,
}

impl Moment {
    fn new(values: &Params) -> Result<Moment> {
        let all = flat(values.tensors())?;
        let mut start = 0;
        let parts = values.map(|tensor| {
            let part = all.f_narrow(0, start, tensor.numel() as i64)?.f_view_as(tensor)?;
            start += tensor.numel() as i64;
            Ok(part)
        })?;
        Ok(Moment { all, parts })
    }
}

/// Names of the moments in checkpoints.
const MOMENTS: [&str; 2] = ["first_moment", "second_moment"];

impl OptimiserState {
    pub(crate) fn new(optimiser: Optimiser, params: &Params) -> Result<OptimiserState> {
        let count = match optimiser {
            Optimiser::Adam => 2,
            Optimiser::Sgd { momentum, .. } => usize::from(momentum > 0.0),
        };
        let zeros = params.without_buffers().map(|tensor| Ok(tensor.f_detach()?.f_zeros_like()?))?;
        let moments = (0..count).map(|_| Moment::new(&zeros)).collect::<Result<_>>()?;
        Ok(OptimiserState { optimiser, steps: 0, moments })
    }

    /// What it remembers of each parameter.
    pub(crate) fn moments(&self) -> impl Iterator<Item = &Params> {
        self.moments.iter().map(|moment| &moment.parts)
    }

    /// Its memory as a checkpoint holds it, for the work called `name`.
    pub(crate) fn saved(&self, name: &str) -> Vec<(String, &Tensor)> {
        let moments = self.moments().zip(MOMENTS);
        moments.flat_map(|(values, moment)| prefixed(&reserved(&format!("{name}{moment}")), values)).collect()
    }

    /// The same with the memory that a checkpoint holds, of `steps` steps.
    pub(crate) fn resumed(&self, name: &str, steps: usize, from: &mut Resumed) -> Result<OptimiserState> {
        let moments = self.moments().zip(MOMENTS);
        let moments = moments
            .map(|(zeros, moment)| Moment::new(&from.params(&reserved(&format!("{name}{moment}")), zeros)?))
            .collect::<Result<_>>()?;
        Ok(OptimiserState { steps, moments, ..*self })
    }

    /// A copy on a device.
    pub(crate) fn on(&self, device: Device) -> Result<OptimiserState> {
        let moments = self.moments().map(|values| Moment::new(&values.to_device(device)?));
        Ok(OptimiserState { moments: moments.collect::<Result<_>>()?, ..*self })
    }

    /// The states of several sets, equally many steps old, as that of their stack.
    pub(crate) fn stacked(states: &[&OptimiserState]) -> Result<OptimiserState> {
        let first = states.first().ok_or(Error::TooFewModels { operation: "a stack", found: 0, needed: 1 })?;
        let moments = (0..first.moments.len()).map(|number| {
            let all: Vec<&Params> = states.iter().map(|state| &state.moments[number].parts).collect();
            Moment::new(&Params::stacked(&all)?)
        });
        Ok(OptimiserState { moments: moments.collect::<Result<_>>()?, ..**first })
    }

    /// The states that [`OptimiserState::stacked`] put together.
    pub(crate) fn unstacked(&self, sets: usize) -> Result<Vec<OptimiserState>> {
        let mut states: Vec<OptimiserState> =
            (0..sets).map(|_| OptimiserState { moments: Vec::new(), ..*self }).collect();
        for moment in &self.moments {
            for (state, own) in states.iter_mut().zip(moment.parts.unstacked(sets)?) {
                state.moments.push(Moment::new(&own)?);
            }
        }
        Ok(states)
    }

    /// Updates `params` in place with the gradients `scale * gradients`.
    pub(crate) fn step(&mut self, params: &Params, gradients: &[Tensor], scale: f64, learning_rate: f64) -> Result<()> {
        let _guard = tch::no_grad_guard();
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let step_size = learning_rate / (1.0 - BETA1.powi(steps));
        let root_correction = (1.0 - BETA2.powi(steps)).sqrt();
        if let (Optimiser::Adam, [m, v]) = (self.optimiser, self.moments.as_slice()) {
            let factors = AdamFactors {
                scale: scale as f32,
                step_size: step_size as f32,
                root_correction: root_correction as f32,
            };
            let moments = m.parts.tensors().iter().zip(v.parts.tensors());
            let mut tensors = params.tensors().iter().zip(moments).zip(gradients);
            let one_pass = |((w, (m, v)), gradient): ((&Tensor, (&Tensor, &Tensor)), &Tensor)| {
                adam_in_one_pass([w, m, v].map(Tensor::shallow_clone), gradient, &factors)
            };
            if params.tensors().iter().all(slice::is_plain) && tensors.all(|all| one_pass(all).is_some()) {
                return Ok(());
            }
        }
        // Else all parameters at once: a GPU would wait for a dozen small operations on each.
        let mut gradient = flat(gradients)?;
        if scale != 1.0 {
            let _ = gradient.f_mul_scalar_(scale)?;
        }
        let change = match (self.optimiser, self.moments.as_mut_slice()) {
            (Optimiser::Sgd { momentum, weight_decay, nesterov }, memory) => {
                if weight_decay > 0.0 {
                    let _ = gradient.f_add_(&flat(params.tensors())?.f_mul_scalar_(weight_decay)?)?;
                }
                if let [memory] = memory {
                    let memory = memory.all.f_mul_scalar_(momentum)?.f_add_(&gradient)?;
                    gradient = if nesterov { gradient.f_add(&memory.f_mul_scalar(momentum)?)? } else { memory };
                }
                gradient.f_mul_scalar(-learning_rate)?
            }
            (Optimiser::Adam, [m, v]) => {
                let _ = m.all.f_lerp_(&gradient, 1.0 - BETA1)?;
                let squares = gradient.f_mul_scalar(1.0 - BETA2)?;
                let _ = v.all.f_mul_scalar_(BETA2)?.f_addcmul_(&gradient, &squares)?;
                let denominator = v.all.f_sqrt()?.f_div_scalar_(root_correction)?.f_add_scalar_(EPSILON)?;
                m.all.f_mul_scalar(-step_size)?.f_div_(&denominator)?
            }
            (Optimiser::Adam, _) => unreachable!("`new` gives Adam two moments, and nothing takes them away"),
        };
        let mut start = 0;
        for param in params.tensors() {
            let count = param.numel() as i64;
            let _ = param.shallow_clone().f_add_(&change.f_narrow(0, start, count)?.f_view_as(param)?)?;
            start += count;
        }
        Ok(())
    }
}

/// What is the same for all values of a step.
struct AdamFactors {
    scale: f32,
    step_size: f32,
    root_correction: f32,
}

/// Values that one thread updates at a time: their five streams fit into the second-level cache.
const CHUNK: usize = 1 << 15;

/// Adam's update of contiguous f32 tensors on the CPU in one pass over memory, where tensor operations need twelve;
/// `None`, and nothing done, for other tensors.
fn adam_in_one_pass([mut w, mut m, mut v]: [Tensor; 3], gradient: &Tensor, factors: &AdamFactors) -> Option<()> {
    let gradient = gradient.f_contiguous().ok()?;
    let g = slice::values(&gradient)?;
    let (w, m, v) = (slice::values_mut(&mut w)?, slice::values_mut(&mut m)?, slice::values_mut(&mut v)?);
    let moments = m.par_chunks_mut(CHUNK).zip(v.par_chunks_mut(CHUNK));
    let chunks = w.par_chunks_mut(CHUNK).zip(moments).zip(g.par_chunks(CHUNK));
    chunks.for_each(|((w, (m, v)), g)| adam(w, m, v, g, factors));
    Some(())
}

#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
fn adam(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], factors: &AdamFactors) {
    // 1 - β in f64: in f32 the difference would lose half of its digits.
    let (rest1, beta2, rest2, epsilon) = ((1.0 - BETA1) as f32, BETA2 as f32, (1.0 - BETA2) as f32, EPSILON as f32);
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
        let g = factors.scale * g;
        *m += rest1 * (g - *m);
        *v = beta2 * *v + rest2 * g * g;
        *w -= factors.step_size * *m / (v.sqrt() / factors.root_correction + epsilon);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    fn one() -> Params {
        Params::new([("w".to_owned(), Tensor::from_slice(&[1.0f64]))], [])
    }

    #[test]
    fn adam_agrees_with_the_formulas_on_one_number() -> Result<()> {
        let params = one();
        let mut adam = OptimiserState::new(Optimiser::Adam, &params)?;
        let (mut w, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for t in 1..=5 {
            let g = 2.0 * w + f64::from(t);
            adam.step(&params, &[Tensor::from_slice(&[g / 0.5])], 0.5, 0.1)?;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            w -= 0.1 * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
            let ours = params.tensors()[0].double_value(&[0]);
            assert!((ours - w).abs() < 1e-12, "step {t}: {ours} {w}");
        }
        Ok(())
    }

    #[test]
    fn one_pass_over_f32_agrees_with_tensor_operations_on_f64() -> Result<()> {
        let n = CHUNK as i64 + 13; // more than one chunk, and no whole number of vectors
        // The second gradients are as small as epsilon.
        for size in [1.0, 1e-8] {
            one_pass_agrees(n, size)?;
        }
        Ok(())
    }

    fn one_pass_agrees(n: i64, size: f64) -> Result<()> {
        let start = Tensor::randn([n], (Kind::Double, Device::Cpu));
        let params = |kind| Params::new([("w".to_owned(), start.to_kind(kind).copy())], []);
        let (single, double) = (params(Kind::Float), params(Kind::Double));
        let mut states =
            [OptimiserState::new(Optimiser::Adam, &single)?, OptimiserState::new(Optimiser::Adam, &double)?];
        for step in 0..5 {
            let gradient = (Tensor::randn([n], (Kind::Double, Device::Cpu)) + f64::from(step)) * size;
            states[0].step(&single, &[gradient.to_kind(Kind::Float)], 0.3, 0.01)?;
            states[1].step(&double, &[gradient], 0.3, 0.01)?;
        }
        let error = (&single.tensors()[0].to_kind(Kind::Double) - &double.tensors()[0]).abs().max().double_value(&[]);
        assert!(error < 4e-6, "{size}: {error}"); // a few units in the last place of the largest weights
        Ok(())
    }

    #[test]
    fn sgd_agrees_with_the_formulas_on_one_number() -> Result<()> {
        for nesterov in [false, true] {
            let params = one();
            let settings = Optimiser::Sgd { momentum: 0.9, weight_decay: 0.01, nesterov };
            let mut state = OptimiserState::new(settings, &params)?;
            let (mut w, mut b) = (1.0f64, 0.0f64);
            for t in 1..=5 {
                let raw = 2.0 * w + f64::from(t);
                state.step(&params, &[Tensor::from_slice(&[raw])], 1.0, 0.1)?;
                let g = raw + 0.01 * w;
                b = 0.9 * b + g;
                w -= 0.1 * if nesterov { g + 0.9 * b } else { b };
                let ours = params.tensors()[0].double_value(&[0]);
                assert!((ours - w).abs() < 1e-12, "step {t}: {ours} {w}");
            }
        }
        let plain = Optimiser::Sgd { momentum: 0.0, weight_decay: 0.0, nesterov: false };
        assert!(OptimiserState::new(plain, &one())?.moments.is_empty());
        Ok(())
    }
}
