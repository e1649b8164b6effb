//! Comparisons over several seeds: mean, standard error, and Student's paired test, on any tidy frame.

use polars::prelude::{DataFrame, DataType, IntoLazy, PolarsError, col, len};
use statrs::distribution::{ContinuousCDF, StudentsT};

use crate::error::{Error, Result};
use crate::frame::{column, frame};

/// Mean and standard error of a column for each group of rows: `mean`, `standard_error`, `count`.
///
/// # Errors
/// A column that is not in the frame, or holds no numbers.
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
    let numbers = col(value).cast(DataType::Float64);
    let groups: Vec<_> = by.iter().map(|name| col(*name)).collect();
    let error = numbers.clone().std(1) / numbers.clone().count().cast(DataType::Float64).sqrt();
    let columns = [numbers.mean().alias("mean"), error.alias("standard_error"), len().alias("count")];
    table.clone().lazy().group_by_stable(groups).agg(columns).collect().map_err(wrong_frame)
}

/// Student's paired test of every method against a baseline: one row a method, with the mean of the differences
/// `method - baseline`, their standard error, `t`, the degrees of freedom, and the two-sided p-value.
///
/// `method` is the column that names methods, `pair` the one that says which rows belong together (a seed, say), `value`
/// what is compared. Only pairs that both methods have count.
///
/// # Errors
/// A column that is not in the frame; a method and pair that occurs twice; fewer than two pairs.
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
    let text = |name: &str| -> Result<Vec<String>> {
        let column = table.column(name).and_then(|column| column.cast(&DataType::String)).map_err(wrong_frame)?;
        Ok(column.str().map_err(wrong_frame)?.iter().map(|value| value.unwrap_or_default().to_owned()).collect())
    };
    let (methods, pairs) = (text(method)?, text(pair)?);
    let values = table.column(value).and_then(|column| column.cast(&DataType::Float64)).map_err(wrong_frame)?;
    let values: Vec<f64> = values.f64().map_err(wrong_frame)?.iter().map(|value| value.unwrap_or(f64::NAN)).collect();
    let of = |wanted: &str| -> Result<Vec<(&str, f64)>> {
        let rows = methods.iter().zip(&pairs).zip(&values).filter(|((own, _), _)| *own == wanted);
        let rows: Vec<(&str, f64)> = rows.map(|((_, pair), value)| (pair.as_str(), *value)).collect();
        for (index, row) in rows.iter().enumerate() {
            if rows[..index].iter().any(|other| other.0 == row.0) {
                let value = format!("{wanted}, {} twice", row.0);
                let requirement = "one row for each method and pair; filter the frame first";
                return Err(Error::Setting { setting: "frame", value, requirement });
            }
        }
        Ok(rows)
    };
    let mut others: Vec<&str> = Vec::new();
    for name in methods.iter().map(String::as_str).filter(|name| *name != baseline) {
        if !others.contains(&name) {
            others.push(name);
        }
    }
    let base = of(baseline)?;
    let mut rows = Vec::new();
    for other in others {
        let own = of(other)?;
        let matched = own.iter().filter_map(|(pair, value)| {
            base.iter().find(|(other, _)| other == pair).map(|(_, reference)| value - reference)
        });
        let differences: Vec<f64> = matched.collect();
        if differences.len() < 2 {
            let value = format!("{} pairs of {other} and {baseline}", differences.len());
            let requirement = "at least two pairs: run more seeds";
            return Err(Error::Setting { setting: "frame", value, requirement });
        }
        let (mean, error) = mean_and_error(&differences);
        let freedom = (differences.len() - 1) as f64;
        let t = mean / error;
        // Differences that are all the same leave nothing to chance.
        let p = match StudentsT::new(0.0, 1.0, freedom) {
            Ok(student) if t.is_finite() => 2.0 * student.cdf(-t.abs()),
            _ if mean == 0.0 => 1.0,
            _ => 0.0,
        };
        rows.push((other.to_owned(), mean, error, t, freedom, p));
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

fn wrong_frame(error: PolarsError) -> Error {
    Error::Frame(error.to_string())
}

/// Mean of some values and its standard error (NaN for a single one).
pub(crate) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::df;

    #[test]
    fn the_paired_test_is_students() -> Result<()> {
        // Gosset's own example (1908): extra hours of sleep by two drugs; t = 4.0621, p = 0.00283.
        let first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
        let second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
        let methods = [["first"; 10], ["second"; 10]].concat();
        let patients: Vec<i64> = (0..10).chain(0..10).collect();
        let hours = df!["drug" => methods, "patient" => patients, "hours" => [first, second].concat()].unwrap();
        let test = paired_test(&hours, "drug", "patient", "hours", "first")?;
        let value = |name: &str| test.column(name).unwrap().f64().unwrap().get(0).unwrap();
        assert!((value("t") - 4.0621).abs() < 1e-4 && (value("p_value") - 0.00283).abs() < 1e-5);
        assert!((value("mean_difference") - 1.58).abs() < 1e-9);
        Ok(())
    }

    #[test]
    fn wrong_frames_get_a_clear_error() {
        let frame = df!["method" => ["a", "b"], "seed" => [0, 0], "loss" => [1.0, 2.0]].unwrap();
        let error = |method: &str, pair: &str| {
            paired_test(&frame, method, pair, "loss", "a").err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert!(error("method", "seed").contains("at least two pairs"));
        assert!(error("methods", "seed").contains("methods"));
        let twice = df!["method" => ["a", "a", "b"], "seed" => [0, 0, 0], "loss" => [1.0, 2.0, 3.0]].unwrap();
        assert!(paired_test(&twice, "method", "seed", "loss", "a").is_err());
    }
}
