//! From results to polars: tidy frames with one observation a row and units in the column names.

use std::path::Path;

use polars::prelude::{
    Column, CsvWriter, DataFrame, NamedFrom, ParquetReader, ParquetWriter, PolarsResult, SerReader, SerWriter, Series,
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
