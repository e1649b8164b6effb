//! Schedules: the factor of the learning rate in each step.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate changes over a training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Schedule {
    /// It does not.
    #[default]
    Constant,
    /// From 0 in a line up to the learning rate at `peak` epochs, and in a line down to 0 at the end.
    UpDown {
        /// Epochs until the highest rate.
        peak: f64,
    },
    /// From 0 in a line up to the learning rate at `warmup` epochs, and by half a cosine wave down to 0 at the end.
    Cosine {
        /// Epochs until the highest rate; 0 begins with it.
        warmup: f64,
    },
}

impl Schedule {
    pub(crate) fn check(&self, epochs: usize) -> Result<()> {
        let (Schedule::UpDown { peak: rise } | Schedule::Cosine { warmup: rise }) = *self else { return Ok(()) };
        if !(rise >= 0.0 && rise < epochs as f64) {
            let (value, requirement) = (format!("{self:?}"), "highest before the last epoch");
            return Err(Error::Setting { setting: "schedule", value, requirement });
        }
        Ok(())
    }

    /// The factor in the middle of step `step` (from 0): never 0, so that no step is without effect.
    pub(crate) fn factor(&self, step: usize, steps_an_epoch: usize, epochs: usize) -> f64 {
        let (t, end) = ((step as f64 + 0.5) / steps_an_epoch as f64, epochs as f64);
        match *self {
            Schedule::UpDown { peak: rise } | Schedule::Cosine { warmup: rise } if t < rise => t / rise,
            Schedule::UpDown { peak } => (end - t) / (end - peak),
            Schedule::Cosine { warmup } => (1.0 + (std::f64::consts::PI * (t - warmup) / (end - warmup)).cos()) / 2.0,
            Schedule::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_rise_to_one_and_fall_to_zero() {
        for schedule in [Schedule::UpDown { peak: 2.0 }, Schedule::Cosine { warmup: 2.0 }] {
            let factors: Vec<f64> = (0..1000).map(|step| schedule.factor(step, 100, 10)).collect();
            assert!(factors[0] > 0.0 && factors[0] < 0.01 && factors[999] > 0.0 && factors[999] < 0.001);
            assert!((factors[199] - 1.0).abs() < 0.01);
            assert!(factors[..200].is_sorted() && factors[200..].iter().rev().is_sorted());
        }
        assert!((Schedule::UpDown { peak: 5.0 }.factor(5249, 100, 100) - 0.5).abs() < 1e-3);
        assert!((Schedule::Cosine { warmup: 0.0 }.factor(499, 100, 10) - 0.5).abs() < 1e-3);
        assert_eq!(Schedule::Constant.factor(7, 100, 10), 1.0);
    }

    #[test]
    fn factors_are_those_of_the_formulas_in_the_middle_of_each_step() {
        let cosine = |t: f64| (1.0 + (std::f64::consts::PI * t).cos()) / 2.0;
        for (schedule, expected) in [
            (
                Schedule::UpDown { peak: 1.0 },
                [0.25, 0.75, 2.75 / 3.0, 2.25 / 3.0, 1.75 / 3.0, 1.25 / 3.0, 0.25, 0.25 / 3.0],
            ),
            (Schedule::UpDown { peak: 0.0 }, [3.75, 3.25, 2.75, 2.25, 1.75, 1.25, 0.75, 0.25].map(|left| left / 4.0)),
            (
                Schedule::Cosine { warmup: 1.0 },
                [0.25, 0.75]
                    .into_iter()
                    .chain((0..6).map(|step| cosine((0.25 + 0.5 * f64::from(step)) / 3.0)))
                    .collect::<Vec<_>>()
                    .try_into()
                    .unwrap(),
            ),
        ] {
            for (step, expected) in expected.into_iter().enumerate() {
                let found = schedule.factor(step, 2, 4);
                assert!((found - expected).abs() < 1e-12, "{schedule:?}, step {step}: {found} instead of {expected}");
            }
        }
    }

    #[test]
    fn a_peak_after_the_end_is_refused() {
        assert!(Schedule::UpDown { peak: 5.0 }.check(5).is_err());
        assert!(Schedule::Cosine { warmup: f64::NAN }.check(5).is_err());
        assert!(Schedule::UpDown { peak: 5.0 }.check(6).is_ok());
    }
}
