//! From results to polars: tidy frames with one observation a row and units in the column names.

use std::path::Path;

use polars::prelude::{
    ChunkAgg, ChunkQuantile, ChunkVar, Column, CsvWriter, DataFrame, DataType, Float64Chunked, NamedFrom,
    ParquetReader, ParquetWriter, PolarsError, PolarsResult, QuantileMethod, SerReader, SerWriter, Series,
};

use crate::error::{Error, Result};
use crate::file;

/// A column from values of a type that polars knows.
pub(crate) fn column<T, U: ?Sized>(name: &str, values: impl IntoIterator<Item = T>) -> Column
where
    Series: NamedFrom<Vec<T>, U>,
{
    Series::new(name.into(), values.into_iter().collect::<Vec<T>>()).into()
}

/// A frame from columns of equal length and different names.
pub(crate) fn frame(columns: impl IntoIterator<Item = Column>) -> DataFrame {
    let columns: Vec<Column> = columns.into_iter().collect();
    let height = columns.first().map_or(0, Column::len);
    // Each caller builds all columns from the same rows, under names that are literals of its own.
    DataFrame::new(height, columns).expect("columns of one result have equal lengths and different names")
}

/// What the columns of a frame hold: one row a column, with the number of values, of missing and of different ones; for
/// numbers (`true` is 1) their mean, standard deviation, and the five numbers from the least to the largest.
///
/// A NaN among the values makes mean and standard deviation NaN.
///
/// # Errors
/// A column whose values cannot be compared, such as lists.
///
/// ```
/// use stemm::polars::df;
/// use stemm::prelude::*;
/// let table = describe(&df!["loss" => [1.0, 2.0, 6.0], "method" => ["a", "b", "a"]]?)?;
/// assert_eq!(table.column("mean")?.f64()?.iter().collect::<Vec<_>>(), [Some(3.0), None]);
/// assert_eq!(table.column("median")?.f64()?.get(0), Some(2.0));
/// assert_eq!(table.column("distinct")?.u64()?.get(1), Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn describe(frame: &DataFrame) -> Result<DataFrame> {
    let columns = frame.columns();
    let number = |what: &dyn Fn(&Float64Chunked) -> PolarsResult<Option<f64>>| {
        let of_column = |column: &Column| match column.dtype().is_primitive_numeric() || column.dtype().is_bool() {
            true => what(column.cast(&DataType::Float64)?.f64()?),
            false => Ok(None),
        };
        columns.iter().map(of_column).collect::<PolarsResult<Vec<_>>>().map_err(undescribed)
    };
    let quantile = |share: f64| number(&move |values| values.quantile(share, QuantileMethod::Linear));
    let distinct = columns.iter().map(|column| Ok(column.drop_nulls().n_unique()? as u64));
    Ok(self::frame([
        column("column", columns.iter().map(|column| column.name().as_str())),
        column("kind", columns.iter().map(|column| column.dtype().to_string())),
        column("count", columns.iter().map(|column| (column.len() - column.null_count()) as u64)),
        column("missing", columns.iter().map(|column| column.null_count() as u64)),
        column("distinct", distinct.collect::<PolarsResult<Vec<_>>>().map_err(undescribed)?),
        column("mean", number(&|values| Ok(values.mean()))?),
        column("standard_deviation", number(&|values| Ok(values.std(1)))?),
        column("min", quantile(0.0)?),
        column("lower_quartile", quantile(0.25)?),
        column("median", quantile(0.5)?),
        column("upper_quartile", quantile(0.75)?),
        column("max", quantile(1.0)?),
    ]))
}

fn undescribed(error: PolarsError) -> Error {
    let hint = "describe a frame without the columns of lists, by `.drop`";
    Error::Frame { reason: error.to_string(), hint }
}

/// Writes a frame as CSV, atomically; makes the folder if need be.
///
/// # Errors
/// The file cannot be written.
pub fn save_csv(frame: &DataFrame, path: impl AsRef<Path>) -> Result<()> {
    save(path.as_ref(), "CSV holds numbers and text only", |bytes| CsvWriter::new(bytes).finish(&mut frame.clone()))
}

/// Writes a frame as Parquet, with the types of its columns, atomically; makes the folder if need be. A checksum between the
/// table and its footer, where other programs do not look, lets [`load_parquet`] see damage.
///
/// # Errors
/// The file cannot be written.
///
/// ```
/// use stemm::prelude::*;
/// let table = blobs(0, Device::Cpu)?.frame();
/// let path = std::env::temp_dir().join("stemm-example.parquet");
/// save_parquet(&table, &path)?;
/// assert!(load_parquet(&path)?.equals(&table));
/// # Ok::<(), stemm::Error>(())
/// ```
pub fn save_parquet(frame: &DataFrame, path: impl AsRef<Path>) -> Result<()> {
    save(path.as_ref(), "save fewer columns", |bytes| {
        ParquetWriter::new(&mut *bytes).finish(&mut frame.clone())?;
        let footer = footer(bytes).unwrap_or(bytes.len());
        let seal = [SEAL, file::sha256(bytes).as_bytes()].concat();
        bytes.splice(footer..footer, seal);
        Ok(())
    })
}

/// Stands before the checksum of a Parquet file that was written here: SHA-256, in hexadecimal, of all other bytes.
const SEAL: &[u8] = b"stemm sha256:";
const SEAL_LENGTH: usize = SEAL.len() + 64;

/// Where the footer of a Parquet file begins: its length stands before the last four bytes.
fn footer(bytes: &[u8]) -> Option<usize> {
    let end = bytes.len().checked_sub(8)?;
    let length = u32::from_le_bytes(bytes[end..end + 4].try_into().ok()?);
    end.checked_sub(length as usize)
}

/// Whether the bytes of a Parquet file are those that were written: damage would change numbers in silence, and make polars
/// ask for more memory than there is, which ends the process. Files of other programs have no seal.
fn is_damaged(bytes: &[u8]) -> bool {
    let Some(end) = footer(bytes) else { return false };
    let Some(start) = end.checked_sub(SEAL_LENGTH).filter(|&start| bytes[start..].starts_with(SEAL)) else {
        return false;
    };
    let rest = [&bytes[..start], &bytes[end..]].concat();
    file::sha256(&rest).as_bytes() != &bytes[start + SEAL.len()..end]
}

/// Writes what `encode` makes of a frame.
fn save(path: &Path, hint: &'static str, encode: impl FnOnce(&mut Vec<u8>) -> PolarsResult<()>) -> Result<()> {
    let mut bytes = Vec::new();
    encode(&mut bytes).map_err(|error| Error::File {
        action: "encode",
        path: path.into(),
        source: std::io::Error::other(error),
        hint,
    })?;
    file::write_atomically(path, &bytes)
}

/// Reads a frame that was written as Parquet.
///
/// # Errors
/// The file cannot be read, was changed after [`save_parquet`] wrote it, or is no Parquet file: it is named for what it is.
pub fn load_parquet(path: impl AsRef<Path>) -> Result<DataFrame> {
    let path = path.as_ref();
    const HINT: &str = "give the path of a file written by `save_parquet`";
    let bytes = file::read(path, HINT)?;
    if is_damaged(&bytes) {
        let reason = "its checksum does not fit: it was changed after it was written".to_owned();
        return Err(Error::Corrupt { path: path.into(), format: "Parquet", reason, hint: "write or copy it again" });
    }
    // polars panics on some damaged files of other programs.
    let read = || ParquetReader::new(std::io::Cursor::new(&bytes)).finish().map_err(|error| error.to_string());
    let frame = std::panic::catch_unwind(read).unwrap_or_else(|_| Err("its table cannot be read".to_owned()));
    frame.map_err(|reason| file::not_a("Parquet", path, &bytes, reason, HINT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::df;

    #[test]
    fn a_description_counts_what_is_missing_and_passes_over_what_is_no_number() {
        let table = df![
            "x" => [Some(1i32), None, Some(4), Some(2)], "flag" => [true, false, false, false],
            "text" => [Some("a"), Some("b"), Some("a"), None], "nan" => [1.0, f64::NAN, 2.0, 3.0],
            "none" => [None::<f64>; 4],
        ];
        let described = describe(&table.unwrap()).unwrap();
        let counts = |name: &str| described.column(name).unwrap().u64().unwrap().iter().flatten().collect::<Vec<_>>();
        let values = |name: &str| described.column(name).unwrap().f64().unwrap().iter().collect::<Vec<_>>();
        assert_eq!((counts("count"), counts("missing")), (vec![3, 4, 3, 4, 0], vec![1, 0, 1, 0, 4]));
        assert_eq!(counts("distinct"), [3, 2, 2, 4, 0]);
        assert_eq!((values("min")[0], values("median")[0], values("max")[0]), (Some(1.0), Some(2.0), Some(4.0)));
        assert_eq!((values("lower_quartile")[0], values("upper_quartile")[0]), (Some(1.5), Some(3.0)));
        assert_eq!((values("mean")[1], values("mean")[2], values("mean")[4]), (Some(0.25), None, None));
        assert!((values("standard_deviation")[0].unwrap() - (7f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!(values("mean")[3].unwrap().is_nan());
        assert_eq!(describe(&DataFrame::empty()).unwrap().height(), 0);
        // Lists are counted, or refused; they do not panic.
        let lists = Series::new("lists".into(), [Series::new("".into(), [1, 2]), Series::new("".into(), [1, 2])]);
        assert!(describe(&frame([lists.into()])).map_or_else(|_| true, |described| described.height() == 1));
    }
}
