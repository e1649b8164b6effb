//! From results to polars: tidy frames with one observation a row and units in the column names.

use std::path::Path;

use polars::prelude::{Column, CsvWriter, DataFrame, NamedFrom, SerWriter, Series};

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

/// Writes a frame as CSV, atomically; makes the folder if need be.
///
/// # Errors
/// The file cannot be written.
pub fn save_csv(frame: &DataFrame, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let mut bytes = Vec::new();
    CsvWriter::new(&mut bytes).finish(&mut frame.clone()).map_err(|error| Error::File {
        action: "encode",
        path: path.into(),
        source: std::io::Error::other(error),
        hint: "CSV holds numbers and text only",
    })?;
    file::write_atomically(path, &bytes)
}
