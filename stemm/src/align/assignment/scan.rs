//! The solver's loops over one row of the gain matrix, written so that the compiler vectorises them, and compiled for
//! several instruction sets; the processor's own is chosen at run time. `reduced_j = gain[j] - price[j]` throughout.

use multiversion::multiversion;

use super::NONE;

/// Columns that are looked at together: two vectors of the widest registers (AVX-512).
const LANES: usize = 16;

/// The largest magnitude of the entries; infinite or NaN if any entry is.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn largest_magnitude(values: &[f32]) -> f32 {
    f32::from_bits(values.iter().fold(0, |largest: u32, &value| largest.max(magnitude_bits(value))))
}

/// Without their sign, floats are ordered as their bits are, with infinity and NaN at the top.
#[inline(always)]
fn magnitude_bits(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// One vector instruction each, which `f64::max` with its care for NaN is not.
#[inline(always)]
fn larger(a: f64, b: f64) -> f64 {
    if a > b { a } else { b }
}

/// As [`larger`].
#[inline(always)]
fn smaller(a: f64, b: f64) -> f64 {
    if a < b { a } else { b }
}

/// Folds the lanes by halves, which stay vectors.
#[inline(always)]
fn across<T: Copy>(mut lanes: [T; LANES], pick: impl Fn(T, T) -> T) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = pick(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Raises each price to the row's entry.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn raise_to(prices: &mut [f64], values: &[f32]) {
    for (price, &value) in prices.iter_mut().zip(values) {
        let value = f64::from(value);
        *price = if value > *price { value } else { *price };
    }
}

/// The best reduced gain of a row, and the largest magnitude of its entries.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn best_and_largest(values: &[f32], prices: &[f64]) -> (f64, f32) {
    let (mut best, mut largest) = ([f64::NEG_INFINITY; LANES], [0u32; LANES]);
    let (value_blocks, price_blocks) = (values.chunks_exact(LANES), prices.chunks_exact(LANES));
    let (rest_values, rest_prices) = (value_blocks.remainder(), price_blocks.remainder());
    for (values, prices) in value_blocks.zip(price_blocks) {
        for lane in 0..LANES {
            let reduced = f64::from(values[lane]) - prices[lane];
            best[lane] = larger(reduced, best[lane]);
            largest[lane] = largest[lane].max(magnitude_bits(values[lane]));
        }
    }
    for (lane, (&value, &price)) in rest_values.iter().zip(rest_prices).enumerate() {
        best[lane] = larger(f64::from(value) - price, best[lane]);
        largest[lane] = largest[lane].max(magnitude_bits(value));
    }
    (across(best, larger), f32::from_bits(across(largest, u32::max)))
}

/// The best and the second best reduced gain of a row; equal if two columns share the best.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn two_best(values: &[f32], prices: &[f64]) -> (f64, f64) {
    let (mut best, mut second) = ([f64::NEG_INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
    let (value_blocks, price_blocks) = (values.chunks_exact(LANES), prices.chunks_exact(LANES));
    let (rest_values, rest_prices) = (value_blocks.remainder(), price_blocks.remainder());
    for (values, prices) in value_blocks.zip(price_blocks) {
        for lane in 0..LANES {
            let reduced = f64::from(values[lane]) - prices[lane];
            second[lane] = larger(smaller(reduced, best[lane]), second[lane]);
            best[lane] = larger(reduced, best[lane]);
        }
    }
    for (lane, (&value, &price)) in rest_values.iter().zip(rest_prices).enumerate() {
        let reduced = f64::from(value) - price;
        second[lane] = larger(smaller(reduced, best[lane]), second[lane]);
        best[lane] = larger(reduced, best[lane]);
    }
    let pairs = std::array::from_fn(|lane| (best[lane], second[lane]));
    across(pairs, |(a, c), (b, d)| (larger(a, b), larger(smaller(a, b), larger(c, d))))
}

/// The column whose reduced gain is `best`; among tied columns a free one if there is any.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn place_of(values: &[f32], prices: &[f64], best: f64, tied: bool, row_of: &[u64]) -> usize {
    let mut found = usize::MAX;
    for (block, (values, prices)) in values.chunks(LANES).zip(prices.chunks(LANES)).enumerate() {
        let hit = |(&value, &price): (&f32, &f64)| f64::from(value) - price == best;
        if values.iter().zip(prices).fold(false, |any, pair| any | hit(pair)) {
            for (lane, pair) in values.iter().zip(prices).enumerate() {
                let column = block * LANES + lane;
                if hit(pair) {
                    if !tied || row_of[column] == NONE {
                        return column;
                    }
                    found = found.min(column);
                }
            }
        }
    }
    found
}

/// One step of Dijkstra's algorithm: the distances of all columns by way of `row`; returns the least.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn relax(
    values: &[f32],
    prices: &[f64],
    offset: f64,
    row: u64,
    distance: &mut [f64],
    previous_row: &mut [u64],
) -> f64 {
    let whole = values.len() / LANES * LANES;
    let mut nearest = [f64::INFINITY; LANES];
    let blocks = values[..whole].chunks_exact(LANES).zip(prices[..whole].chunks_exact(LANES));
    let state = distance[..whole].chunks_exact_mut(LANES).zip(previous_row[..whole].chunks_exact_mut(LANES));
    for ((values, prices), (distance, previous_row)) in blocks.zip(state) {
        for lane in 0..LANES {
            let candidate = offset + (prices[lane] - f64::from(values[lane]));
            let closer = candidate < distance[lane];
            let least = if closer { candidate } else { distance[lane] };
            previous_row[lane] = if closer { row } else { previous_row[lane] };
            distance[lane] = least;
            nearest[lane] = smaller(least, nearest[lane]);
        }
    }
    let mut least = across(nearest, smaller);
    for column in whole..values.len() {
        let candidate = offset + (prices[column] - f64::from(values[column]));
        if candidate < distance[column] {
            (distance[column], previous_row[column]) = (candidate, row);
        }
        least = least.min(distance[column]);
    }
    least
}

/// A column at distance `nearest`: a free one if there is any, else the first.
#[multiversion(targets("x86_64+avx512f+avx512vl+avx512dq", "x86_64+avx2+fma"))]
pub(super) fn free_or_first(distance: &[f64], nearest: f64, row_of: &[u64]) -> usize {
    let mut found = usize::MAX;
    for (block, distances) in distance.chunks(LANES).enumerate() {
        if distances.iter().fold(false, |any, &distance| any | (distance == nearest)) {
            for (lane, &distance) in distances.iter().enumerate() {
                let column = block * LANES + lane;
                if distance == nearest {
                    if row_of[column] == NONE {
                        return column;
                    }
                    found = found.min(column);
                }
            }
        }
    }
    found
}
