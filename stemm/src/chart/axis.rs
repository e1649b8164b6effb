//! The one place where ranges and ticks come from: a range is finite and wide enough for its labels whatever the values
//! are, and has a bounded number of ticks.

use super::label::{fitted, short, text_width};
use super::{TEXT, label};

/// Differences below so much of the values are rounding: labels could not tell them apart.
const NARROWEST: f64 = 1e-9;
/// Narrower ranges than this would leave the numbers with full precision.
const SMALLEST: f64 = 1e-290;
/// Ticks of an axis, at most.
const TICKS: usize = 8;
/// Pixels that the label of a tick gets at most.
const LABEL: i32 = 110;

/// Where values lie between the two ends of an axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// The ends; their logarithms to base 10 on a logarithmic axis.
    low: f64,
    high: f64,
    log: bool,
    /// Holds whole numbers alone, as epochs are: no ticks between them.
    whole: bool,
}

/// A tick: its place between the ends (0 to 1) and its label.
pub(super) type Tick = (f64, String);

/// The lowest and the highest of the finite values, apart enough to be told apart; from 0 to 1 for no values.
pub(super) fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = extremes(values);
    if low > high {
        (0.0, 1.0)
    } else if is_narrow(low, high) {
        let pad = 0.5 * low.abs().max(high.abs()).max(1e-3);
        widened(low, high, pad)
    } else {
        (low, high)
    }
}

/// Whether two ends are too close together for an axis.
pub(super) fn is_narrow(low: f64, high: f64) -> bool {
    high / 2.0 - low / 2.0 <= (NARROWEST / 2.0 * low.abs().max(high.abs())).max(SMALLEST)
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

fn widened(low: f64, high: f64, pad: f64) -> (f64, f64) {
    ((low - pad).max(f64::MIN), (high + pad).min(f64::MAX))
}

impl Axis {
    /// An axis a little longer than the range of the finite values (of the positive ones, if it is logarithmic).
    pub(super) fn over(values: impl Iterator<Item = f64> + Clone, log: bool) -> Axis {
        let whole = !log && values.clone().filter(|value| value.is_finite()).all(|value| value.fract() == 0.0);
        let (low, high) = if log {
            let (low, high) = extremes(values.map(f64::log10));
            match low > high {
                true => (-1.0, 0.0),
                // Half a decade on each side of a single value.
                false if is_narrow(low, high) => (low - 0.5, high + 0.5),
                false => (low, high),
            }
        } else {
            span(values)
        };
        let (low, high) = widened(low, high, 0.1 * (high / 2.0 - low / 2.0));
        Axis { low, high, log, whole }
    }

    /// An axis between two finite ends that are not too close together (see [`is_narrow`]).
    pub(super) fn between(low: f64, high: f64) -> Axis {
        Axis { low, high, log: false, whole: false }
    }

    /// The same axis from another lower end, if that is below the upper one.
    pub(super) fn starting_at(mut self, low: f64) -> Axis {
        if !is_narrow(low, self.high) {
            self.low = low;
        }
        self
    }

    /// The same axis, longer at its upper end by a part of its length.
    pub(super) fn extended_by(mut self, part: f64) -> Axis {
        self.high = widened(self.low, self.high, 2.0 * part * (self.high / 2.0 - self.low / 2.0)).1;
        self
    }

    /// The place of a value: 0 at the lower end, 1 at the upper one. Only finite values have any, and on a logarithmic
    /// axis only positive ones.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        let value = if self.log { value.log10() } else { value };
        // Far outside is far outside: numbers of pixels stay small.
        value.is_finite().then(|| self.share(value).clamp(-1e3, 1e3))
    }

    /// The place of a value, or of its logarithm: by halves, whose difference is finite for any two finite numbers.
    fn share(&self, value: f64) -> f64 {
        (value / 2.0 - self.low / 2.0) / (self.high / 2.0 - self.low / 2.0)
    }

    /// Ticks whose labels need at most `room` pixels along the axis together, for labels of the width that `extent` gives.
    pub(super) fn ticks(&self, room: i32, extent: impl Fn(&str) -> i32) -> Vec<Tick> {
        let fits = |ticks: &Vec<Tick>| ticks.iter().map(|tick| extent(&tick.1)).sum::<i32>() <= room;
        (2..=TICKS).rev().map(|most| self.at_most(most)).find(fits).unwrap_or_default()
    }

    /// Ticks of a horizontal axis of so many pixels.
    pub(super) fn ticks_across(&self, width: i32) -> Vec<Tick> {
        self.ticks(width, |label| text_width(label, TEXT) + 14)
    }

    /// Ticks of a vertical axis of so many pixels.
    pub(super) fn ticks_up(&self, height: i32) -> Vec<Tick> {
        self.ticks(height, |_| 24)
    }

    /// Pixels that the labels of a vertical axis take.
    pub(super) fn label_width(&self, height: i32) -> i32 {
        label::widest(self.ticks_up(height).into_iter().map(|tick| tick.1), TEXT)
    }

    fn at_most(&self, most: usize) -> Vec<Tick> {
        let ticks = if self.log { self.log_ticks(most) } else { linear_ticks(self.low, self.high, self.whole, most) };
        let placed = ticks.into_iter().map(|(value, label)| (self.share(value), label));
        placed.filter(|tick| (0.0..=1.0).contains(&tick.0)).map(|(at, text)| (at, fitted(&text, TEXT, LABEL))).collect()
    }

    /// Logarithms and labels of 1, 2 and 5 times the powers of ten, or of powers alone if there are many; round numbers in equal steps within a decade.
    fn log_ticks(&self, most: usize) -> Vec<(f64, String)> {
        let length = self.high - self.low;
        let factors: &[f64] = if 3.0 * length < most as f64 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let ends = (self.low.ceil() as i32, self.high.floor() as i32);
        let many = |every: &i32| ends.1.div_euclid(*every) - (ends.0 - 1).div_euclid(*every) > most as i32;
        let every = if factors.len() > 1 { 1 } else { (1..).find(|every| !many(every)).unwrap_or(1) };
        let decades = (self.low.floor() as i32..=ends.1).filter(|decade| decade % every == 0);
        let named = decades.flat_map(|decade| factors.iter().map(move |factor| (*factor, decade)));
        let placed = named.map(|(factor, decade)| (f64::from(decade) + factor.log10(), factor, decade));
        let ticks: Vec<_> = placed
            .filter(|(place, ..)| self.low <= *place && *place <= self.high)
            .map(|(place, factor, decade)| {
                let plain = (-3..5).contains(&decade).then(|| short(factor * 10f64.powi(decade)));
                (place, plain.unwrap_or_else(|| format!("{factor}e{decade}")))
            })
            .collect();
        if ticks.len() >= 2 || length >= 1.0 {
            return ticks;
        }
        let end = |place: f64| 10f64.powf(place).min(f64::MAX);
        let ticks = linear_ticks(end(self.low), end(self.high), false, most).into_iter();
        ticks.map(|(value, label)| (value.log10(), label)).collect()
    }
}

/// Multiples of 1, 2 or 5 times a power of ten between two ends: at most so many, with labels of equally many decimals.
fn linear_ticks(low: f64, high: f64, whole: bool, most: usize) -> Vec<(f64, String)> {
    let length = 2.0 * ((high / 2.0 - low / 2.0) / most as f64);
    let exponent = if whole { length.log10().floor().max(0.0) } else { length.log10().floor() };
    let steps = [(1.0, exponent), (2.0, exponent), (5.0, exponent), (1.0, exponent + 1.0)];
    // Not `powi`: it inverts 10^n, which overflows where 10^-n is still a number.
    let size = |(factor, exponent): (f64, f64)| (factor * 10f64.powf(exponent)).min(1e308);
    let step = steps.into_iter().find(|&step| size(step) >= length).unwrap_or(steps[3]);
    let (step, exponent) = (size(step), step.1);
    let largest = low.abs().max(high.abs());
    let label = |value: f64| {
        if value == 0.0 {
            "0".to_owned()
        } else if (1e-3..1e6).contains(&largest) {
            format!("{value:.*}", (-exponent).max(0.0) as usize)
        } else {
            let digits = (value.abs().log10().floor() - exponent).clamp(0.0, 15.0) as usize;
            let text = format!("{value:.digits$e}");
            let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
            let mantissa = if digits > 0 { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
            format!("{mantissa}e{power}")
        }
    };
    let (first, last) = ((low / step).ceil(), (high / step).floor());
    (0..=most)
        .map(|tick| first + tick as f64)
        .take_while(|&tick| tick <= last)
        .map(|tick| tick * step)
        .map(|value| (value, label(value)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(values: &[f64], log: bool) -> Vec<String> {
        Axis::over(values.iter().copied(), log).at_most(TICKS).into_iter().map(|tick| tick.1).collect()
    }

    #[test]
    fn ticks_of_a_logarithmic_axis_are_round_numbers() {
        assert_eq!(labels(&[1.5, 30.0], true), ["2", "5", "10", "20"]);
        assert_eq!(labels(&[1e-7, 2.0], true), ["1e-7", "1e-6", "1e-5", "1e-4", "0.001", "0.01", "0.1", "1"]);
        assert_eq!(labels(&[1.51, 1.69], true), ["1.55", "1.60", "1.65"]);
    }

    #[test]
    fn ticks_of_a_linear_axis_are_round_numbers_with_equally_many_decimals() {
        assert_eq!(labels(&[0.0, 1.0], false), ["0", "1"], "whole numbers have no ticks between them");
        assert_eq!(labels(&[0.0, 0.5, 1.0], false), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&[-1e308, 1e308], false), ["-1e308", "-5e307", "0", "5e307", "1e308"]);
        assert_eq!(labels(&[2e-5, 5.1e-5], false), ["2e-5", "2.5e-5", "3e-5", "3.5e-5", "4e-5", "4.5e-5", "5e-5"]);
        assert_eq!(labels(&[7.0, 7.0], false), ["4", "5", "6", "7", "8", "9", "10"]);
    }

    #[test]
    fn the_smallest_numbers_have_ticks() {
        let near = 1.850293931935939e-308;
        assert!(!labels(&[1.1061081362410186e-308, near, near.next_up()], true).is_empty());
    }

    proptest! {
        #[test]
        fn every_axis_holds_its_values_and_has_few_ticks(
            values in proptest::collection::vec(any::<f64>(), 0..5), near in any::<f64>(), log in any::<bool>(),
        ) {
            let values: Vec<f64> = values.into_iter().chain([near, near.next_up(), near]).collect();
            let axis = Axis::over(values.iter().copied(), log);
            for &value in &values {
                if let Some(place) = axis.place(value) {
                    prop_assert!((0.0..=1.0).contains(&place), "{value} is at {place} of {axis:?}");
                } else {
                    prop_assert!(!value.is_finite() || log && value <= 0.0);
                }
            }
            for most in 2..=TICKS {
                let ticks = axis.at_most(most);
                prop_assert!(ticks.len() <= most + 1, "{ticks:?} of {axis:?}");
                prop_assert!(ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.0) && tick.1.len() < 30), "{ticks:?}");
            }
            prop_assert!(!axis.at_most(TICKS).is_empty(), "no tick on {axis:?}");
        }
    }
}
