//! Comparisons over several seeds: mean, standard error, and Student's paired test, on any tidy frame.

use std::collections::HashMap;

use polars::prelude::{DataFrame, DataType, IntoLazy, PolarsError, col};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::error::{Error, Result};
use crate::frame::{column, frame};

/// Mean of a column for each group of rows, its standard error `s / sqrt(count)`, and the number of values in it: columns
/// `mean`, `standard_error` (missing for a single value), `count`. Missing values do not count; a group without any value
/// has no mean.
///
/// # Errors
/// A column that is not in the frame; a frame without rows; a column of values that holds no numbers, or a NaN or an
/// infinity among them: what is left out is for you to say, by `.filter`.
///
/// ```
/// use stemm::polars::df;
/// use stemm::prelude::*;
/// let losses = df!["method" => ["a", "a", "b", "b"], "seed" => [0, 1, 0, 1], "loss" => [1.0, 3.0, 2.0, 2.5]]?;
/// let table = summary(&losses, &["method"], "loss")?;
/// assert_eq!(table.column("mean")?.f64()?.get(0), Some(2.0));
/// assert_eq!(table.column("standard_error")?.f64()?.get(0), Some(1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn summary(table: &DataFrame, by: &[&str], value: &str) -> Result<DataFrame> {
    if by.is_empty() {
        let requirement = "at least one column whose values make the groups";
        return Err(Error::Setting { setting: "by", value: "empty".to_owned(), requirement });
    }
    numbers(table, value)?;
    let values = col(value).cast(DataType::Float64);
    let groups: Vec<_> = by.iter().map(|name| col(*name)).collect();
    let error = values.clone().std(1) / values.clone().count().cast(DataType::Float64).sqrt();
    let columns = [values.clone().mean().alias("mean"), error.alias("standard_error"), values.count().alias("count")];
    let summary = table.clone().lazy().group_by_stable(groups).agg(columns).collect().map_err(wrong_frame)?;
    let means: Vec<_> = summary.column("mean").and_then(|mean| mean.f64()).map_err(wrong_frame)?.iter().collect();
    if means.into_iter().flatten().any(|mean| !mean.is_finite()) {
        return Err(too_large(value));
    }
    Ok(summary)
}

/// Student's paired test of every method against a baseline: one row a method, with the mean of the differences
/// `method - baseline`, their standard error, `t`, the degrees of freedom, and the two-sided p-value.
///
/// `method` is the column that names methods, `pair` the one that says which rows belong together (a seed, say), `value`
/// what is compared. Only pairs that both methods have count: their number is `degrees_of_freedom + 1`. Where all
/// differences are the same nothing is left to chance: p is 0, or 1 if they are all 0.
///
/// # Errors
/// A column that is not in the frame; a frame without rows; a missing value or a NaN in one of the three columns, an
/// infinity or anything but numbers in `value`; a baseline that the frame does not hold, or holds alone; a method and pair
/// that occurs twice; fewer than two pairs.
///
/// ```
/// use stemm::polars::df;
/// use stemm::prelude::*;
/// let losses = df![
///     "method" => ["a", "a", "a", "b", "b", "b"], "seed" => [0, 1, 2, 0, 1, 2], "loss" => [1.0, 2.0, 3.0, 1.5, 2.6, 3.4]
/// ]?;
/// let test = paired_test(&losses, "method", "seed", "loss", "a")?;
/// assert!(test.column("p_value")?.f64()?.get(0) < Some(0.05)); // b is worse by 0.5 ± 0.06
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn paired_test(table: &DataFrame, method: &str, pair: &str, value: &str, baseline: &str) -> Result<DataFrame> {
    let (methods, pairs) = (names(table, method)?, names(table, pair)?);
    let values = complete(value, numbers(table, value)?)?;
    let mut found: Vec<&str> = Vec::new(); // methods, in the order of the frame
    let mut cells: HashMap<(&str, &str), f64> = HashMap::new();
    for ((own, pair), value) in methods.iter().zip(&pairs).zip(values) {
        if !found.contains(&own.as_str()) {
            found.push(own);
        }
        if cells.insert((own, pair), value).is_some() {
            let requirement = "one row for each method and pair; filter the frame first";
            return Err(Error::Setting { setting: "frame", value: format!("{own}, {pair} twice"), requirement });
        }
    }
    if !found.contains(&baseline) {
        let value = format!("{baseline}, but `{method}` holds {}", found.join(", "));
        return Err(Error::Setting { setting: "baseline", value, requirement: "one of the methods of the frame" });
    }
    if found.len() == 1 {
        let value = format!("{baseline} alone");
        let requirement = "at least two methods, the baseline and one to compare with it";
        return Err(Error::Setting { setting: "method", value, requirement });
    }
    let mut rows = Vec::new();
    for &other in found.iter().filter(|&&other| other != baseline) {
        let own = methods.iter().zip(&pairs).filter(|(own, _)| *own == other).map(|(_, pair)| pair.as_str());
        let differences: Vec<f64> =
            own.filter_map(|pair| Some(cells[&(other, pair)] - cells.get(&(baseline, pair))?)).collect();
        if differences.len() < 2 {
            let value = format!("{} pairs of {other} and {baseline}", differences.len());
            let requirement = "at least two pairs: run more seeds";
            return Err(Error::Setting { setting: "frame", value, requirement });
        }
        let (mean, error, t, p) = student(&differences);
        if !mean.is_finite() || !error.is_finite() {
            return Err(too_large(value));
        }
        rows.push((other.to_owned(), mean, error, t, (differences.len() - 1) as f64, p));
    }
    Ok(frame([
        column("method", rows.iter().map(|row| row.0.as_str())),
        column("baseline", rows.iter().map(|_| baseline)),
        column("mean_difference", rows.iter().map(|row| row.1)),
        column("standard_error", rows.iter().map(|row| row.2)),
        column("t", rows.iter().map(|row| row.3)),
        column("degrees_of_freedom", rows.iter().map(|row| row.4)),
        column("p_value", rows.iter().map(|row| row.5)),
    ]))
}

/// Student's test of whether the mean of some differences is 0: the mean, its standard error, t, and the two-sided p-value.
pub(crate) fn student(differences: &[f64]) -> (f64, f64, f64, f64) {
    let (mean, error) = mean_and_error(differences);
    let t = mean / error;
    let p = match StudentsT::new(0.0, 1.0, differences.len() as f64 - 1.0) {
        Ok(student) if t.is_finite() => 2.0 * student.cdf(-t.abs()),
        _ if mean == 0.0 => 1.0,
        _ => 0.0,
    };
    (mean, error, t, p)
}

/// Holm's correction (1979) of the p-values of several tests: the chance that any test of a family whose hypotheses all hold has a
/// corrected value below a level is at most that level.
///
/// The `i`-th smallest of `m` is multiplied by `m - i + 1`; none is smaller than one before it, or larger than 1.
///
/// # Errors
/// A value outside of 0..=1.
///
/// ```
/// let corrected = stemm::analysis::holm(&[0.01, 0.04, 0.03])?;
/// assert!(corrected.iter().zip([0.03, 0.06, 0.06]).all(|(a, b)| (a - b).abs() < 1e-12));
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn holm(p_values: &[f64]) -> Result<Vec<f64>> {
    if let Some(wrong) = p_values.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        let (value, requirement) = (wrong.to_string(), "between 0 and 1");
        return Err(Error::Setting { setting: "p-value", value, requirement });
    }
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let (mut corrected, mut lowest) = (vec![0.0; p_values.len()], 0.0f64);
    for (rank, &place) in order.iter().enumerate() {
        lowest = lowest.max(p_values[place] * (p_values.len() - rank) as f64).min(1.0);
        corrected[place] = lowest;
    }
    Ok(corrected)
}

const COLUMNS: &str = "look at its columns with `.schema()`";
const INCOMPLETE: &str =
    "leave such rows out by `.filter(...)`, or train again what gave them; a comparison needs each of its values";

/// The numbers of a column, none where they are missing; all that are there are finite.
fn numbers(table: &DataFrame, name: &str) -> Result<Vec<Option<f64>>> {
    let column = table.column(name).map_err(wrong_frame)?;
    if table.height() == 0 {
        return Err(Error::Frame {
            reason: "it has no rows".to_owned(),
            hint: "give it the results of at least one run",
        });
    }
    if !column.dtype().is_primitive_numeric() {
        let reason = format!("column `{name}` holds {}, not numbers", column.dtype());
        return Err(Error::Frame { reason, hint: "name a column of numbers, or `.cast` this one first" });
    }
    let column = column.cast(&DataType::Float64).map_err(wrong_frame)?;
    let values: Vec<Option<f64>> = column.f64().map_err(wrong_frame)?.iter().collect();
    match values.iter().position(|value| value.is_some_and(|value| !value.is_finite())) {
        Some(row) => Err(unusable(name, &values[row].map_or(String::new(), |value| value.to_string()), row)),
        None => Ok(values),
    }
}

/// A column as names: whatever it holds, but no row without any.
fn names(table: &DataFrame, name: &str) -> Result<Vec<String>> {
    let column = table.column(name).map_err(wrong_frame)?;
    if column.dtype().is_float() {
        complete(name, numbers(table, name)?)?;
    }
    let column = column.cast(&DataType::String).map_err(wrong_frame)?;
    complete(name, column.str().map_err(wrong_frame)?.iter().map(|value| value.map(str::to_owned)).collect())
}

/// The values of a column in which none is missing.
fn complete<T>(name: &str, values: Vec<Option<T>>) -> Result<Vec<T>> {
    let rows = values.into_iter().enumerate();
    rows.map(|(row, value)| value.ok_or_else(|| unusable(name, "no value", row))).collect()
}

fn unusable(name: &str, what: &str, row: usize) -> Error {
    Error::Frame { reason: format!("column `{name}` has {what} in row {row}"), hint: INCOMPLETE }
}

fn too_large(name: &str) -> Error {
    let reason = format!("the values of column `{name}` are too large for their mean and its error");
    Error::Frame { reason, hint: "divide them by a common factor first" }
}

fn wrong_frame(error: PolarsError) -> Error {
    Error::Frame { reason: error.to_string(), hint: COLUMNS }
}

/// Mean of some values, and its standard error (NaN for a single one).
///
/// ```
/// assert_eq!(stemm::analysis::mean_and_error(&[1.0, 3.0]), (2.0, 1.0));
/// ```
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::df;

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() <= 1e-9 * expected.abs().max(1.0)
    }

    /// A frame of two methods whose differences `b - a` are the given ones.
    fn with_differences(differences: &[f64]) -> DataFrame {
        let n = differences.len();
        let (methods, seeds) = ([vec!["a"; n], vec!["b"; n]].concat(), (0..n as i64).chain(0..n as i64));
        let losses: Vec<f64> = (0..n).map(|_| 0.0).chain(differences.iter().copied()).collect();
        df!["method" => methods, "seed" => seeds.collect::<Vec<_>>(), "loss" => losses].unwrap()
    }

    fn row(test: &DataFrame, name: &str) -> f64 {
        test.column(name).unwrap().f64().unwrap().get(0).unwrap()
    }

    #[test]
    fn mean_and_standard_error_are_those_of_the_textbook() -> Result<()> {
        // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, squares of the deviations 32, so s² = 32 / 7 and the error is sqrt(4 / 7).
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let (mean, error) = mean_and_error(&values);
        assert!(near(mean, 5.0) && near(error, (4.0_f64 / 7.0).sqrt()));
        let table = summary(&df!["g" => ["a"; 8], "x" => values].unwrap(), &["g"], "x")?;
        assert!(near(row(&table, "mean"), 5.0) && near(row(&table, "standard_error"), (4.0_f64 / 7.0).sqrt()));
        let test = paired_test(&with_differences(&values), "method", "seed", "loss", "a")?;
        assert!(near(row(&test, "mean_difference"), 5.0) && near(row(&test, "standard_error"), (4.0_f64 / 7.0).sqrt()));
        assert!(near(row(&test, "t"), 5.0 / (4.0_f64 / 7.0).sqrt()) && row(&test, "degrees_of_freedom") == 7.0);
        assert!(mean_and_error(&[1.0]).1.is_nan());
        Ok(())
    }

    #[test]
    fn p_values_are_those_of_students_distribution_in_closed_form() -> Result<()> {
        // 1 degree of freedom: p = 1 - 2/π · atan t; 2 degrees: p = 1 - t / sqrt(2 + t²).
        for t in [0.1, 1.0, 3.0, 12.706_204_736, 50.0] {
            // Two differences m ± d: t = m / d. Three differences m - d, m, m + d: t = m · sqrt(3) / d.
            let two = paired_test(&with_differences(&[t - 1.0, t + 1.0]), "method", "seed", "loss", "a")?;
            assert!(near(row(&two, "t"), t), "{two}");
            assert!(near(row(&two, "p_value"), 1.0 - 2.0 / std::f64::consts::PI * t.atan()), "{two}");
            let m = -t / 3.0_f64.sqrt();
            let three = paired_test(&with_differences(&[m - 1.0, m, m + 1.0]), "method", "seed", "loss", "a")?;
            assert!(near(row(&three, "t"), -t), "{three}");
            assert!(near(row(&three, "p_value"), 1.0 - t / (2.0 + t * t).sqrt()), "{three}");
        }
        Ok(())
    }

    #[test]
    fn the_paired_test_is_students() -> Result<()> {
        // Gosset's own example (1908): extra hours of sleep by two drugs; t = 4.0621, p = 0.00283.
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let methods = [["first"; 10], ["second"; 10]].concat();
        let patients: Vec<i64> = (0..10).chain(0..10).collect();
        let hours = df!["drug" => methods, "patient" => patients, "hours" => [first, second].concat()].unwrap();
        let test = paired_test(&hours, "drug", "patient", "hours", "first")?;
        assert!((row(&test, "t") - 4.0621).abs() < 1e-4 && (row(&test, "p_value") - 0.00283).abs() < 1e-5);
        assert!((row(&test, "mean_difference") - 1.58).abs() < 1e-9);
        Ok(())
    }

    #[test]
    fn differences_that_are_all_the_same_leave_nothing_to_chance() -> Result<()> {
        for (differences, p) in [([2.0; 3], 0.0), ([-2.0; 3], 0.0), ([0.0; 3], 1.0)] {
            let test = paired_test(&with_differences(&differences), "method", "seed", "loss", "a")?;
            assert_eq!((row(&test, "mean_difference"), row(&test, "p_value")), (differences[0], p));
        }
        Ok(())
    }

    #[test]
    fn only_pairs_that_both_methods_have_count_and_their_number_can_be_read() -> Result<()> {
        let methods = ["a", "a", "a", "a", "b", "b", "b"];
        let losses = [0.0, 0.0, 0.0, 9.0, 1.0, 9.0, 2.0];
        let table = df!["method" => methods, "seed" => [0, 1, 2, 3, 2, 7, 0], "loss" => losses].unwrap();
        let test = paired_test(&table, "method", "seed", "loss", "a")?;
        assert_eq!((row(&test, "degrees_of_freedom"), row(&test, "mean_difference")), (1.0, 1.5));
        Ok(())
    }

    #[test]
    fn a_summary_counts_the_values_that_entered_the_mean() -> Result<()> {
        let table = df!["m" => ["a", "a", "a", "b"], "x" => [Some(1.0), None, Some(3.0), None]].unwrap();
        let summary = summary(&table, &["m"], "x")?;
        assert_eq!((row(&summary, "mean"), row(&summary, "standard_error")), (2.0, 1.0));
        let counts = summary.column("count").unwrap().cast(&DataType::Int64).unwrap();
        assert_eq!(counts.i64().unwrap().iter().collect::<Vec<_>>(), [Some(2), Some(0)]);
        assert_eq!(summary.column("mean").unwrap().f64().unwrap().get(1), None);
        Ok(())
    }

    #[test]
    fn values_that_are_not_numbers_are_refused_by_column_and_row() {
        let test =
            |table: &DataFrame| paired_test(table, "m", "s", "x", "a").err().map(|e| e.to_string()).unwrap_or_default();
        let mean = |table: &DataFrame| summary(table, &["m"], "x").err().map(|e| e.to_string()).unwrap_or_default();
        for (bad, shown) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let table = df!["m" => ["a", "a", "b", "b"], "s" => [0, 1, 0, 1], "x" => [1.0, 2.0, bad, 3.0]].unwrap();
            for error in [test(&table), mean(&table)] {
                assert!(error.contains(&format!("`x` has {shown} in row 2")) && error.contains("filter"), "{error}");
            }
        }
        let (m, s) = (["a", "a", "b", "b"], [0, 1, 0, 1]);
        let missing = df!["m" => m, "s" => s, "x" => [Some(1.0), None, Some(2.0), Some(3.0)]].unwrap();
        assert!(test(&missing).contains("`x` has no value in row 1"), "{}", test(&missing));
        let missing = df!["m" => m, "s" => [Some(0), Some(1), Some(0), None], "x" => [1, 2, 3, 4]].unwrap();
        assert!(test(&missing).contains("`s` has no value in row 3"), "{}", test(&missing));
        let missing = df!["m" => [Some("a"), Some("a"), None, Some("b")], "s" => s, "x" => [1, 2, 3, 4]].unwrap();
        assert!(test(&missing).contains("`m` has no value in row 2"), "{}", test(&missing));
        let seeds = df!["m" => m, "s" => [0.0, f64::NAN, 0.0, f64::NAN], "x" => [1, 2, 3, 4]].unwrap();
        assert!(test(&seeds).contains("`s` has NaN in row 1"), "{}", test(&seeds));
        for text in [df!["m" => m, "s" => s, "x" => ["1", "2", "3", "4"]], df!["m" => m, "s" => s, "x" => [true; 4]]] {
            let text = text.unwrap();
            assert!(test(&text).contains("not numbers") && mean(&text).contains("column `x` holds"), "{}", mean(&text));
        }
        let huge = df!["m" => m, "s" => s, "x" => [1e308, -1e308, -1e308, 1e308]].unwrap();
        assert!(test(&huge).contains("too large"), "{}", test(&huge));
        let apart = df!["m" => m, "s" => s, "x" => [0.0, 0.0, 1e200, -1e200]].unwrap(); // the mean of these is 0
        assert!(test(&apart).contains("too large"), "{}", test(&apart));
        let huge = df!["m" => ["a"; 4], "s" => s, "x" => [1.7e308; 4]].unwrap();
        assert!(mean(&huge).contains("too large") || mean(&huge).is_empty(), "{}", mean(&huge));
    }

    #[test]
    fn wrong_frames_get_a_clear_error() {
        let frame = df!["method" => ["a", "b"], "seed" => [0, 0], "loss" => [1.0, 2.0]].unwrap();
        let error = |table: &DataFrame, method: &str, baseline: &str| {
            paired_test(table, method, "seed", "loss", baseline)
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(error(&frame, "method", "a").contains("at least two pairs"));
        assert!(error(&frame, "methods", "a").contains("methods"));
        let unknown = error(&frame, "method", "c");
        assert!(unknown.contains("`baseline` is c") && unknown.contains("holds a, b"), "{unknown}");
        let twice = df!["method" => ["a", "a", "b"], "seed" => [0, 0, 0], "loss" => [1.0, 2.0, 3.0]].unwrap();
        assert!(error(&twice, "method", "a").contains("a, 0 twice"));
        let alone = df!["method" => ["a", "a"], "seed" => [0, 1], "loss" => [1.0, 2.0]].unwrap();
        assert!(error(&alone, "method", "a").contains("a alone"));
        let empty = frame.head(Some(0));
        assert!(error(&empty, "method", "a").contains("no rows"), "{}", error(&empty, "method", "a"));
        assert!(summary(&empty, &["method"], "loss").is_err_and(|error| error.to_string().contains("no rows")));
        assert!(summary(&frame, &[], "loss").is_err_and(|error| error.to_string().contains("`by`")));
    }
}
