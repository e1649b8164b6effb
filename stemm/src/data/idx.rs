//! The IDX format of MNIST: two zero bytes, a type byte (8 = u8), the number of dimensions, each dimension as a
//! big-endian u32, then the values. Files may be compressed by gzip.

use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};
use crate::file;

/// An array of bytes with its shape, as read from an IDX file.
#[derive(Clone, Debug, PartialEq)]
pub struct IdxArray {
    /// Dimensions, outermost first.
    pub shape: Vec<i64>,
    /// Values in row-major order.
    pub values: Vec<u8>,
    /// SHA-256 of the decompressed file, in hexadecimal.
    pub sha256: String,
}

/// Reads an IDX file of bytes, plain or compressed by gzip (told from its content, not its name).
///
/// # Errors
/// The file cannot be read, is truncated, has trailing bytes, or is not IDX of type `u8`.
pub fn read_idx(path: impl AsRef<Path>) -> Result<IdxArray> {
    let path = path.as_ref();
    let hint = "run `make data`, or name the folder that holds the files";
    let raw = file::read(path, hint)?;
    let hint = "move it away and run `make data`, or give a whole file in MNIST's format";
    let corrupt = |reason: String| Error::Corrupt { path: path.into(), format: "IDX", reason, hint };
    let bytes = if raw.starts_with(&[0x1f, 0x8b]) {
        let mut bytes = Vec::new();
        MultiGzDecoder::new(raw.as_slice()).read_to_end(&mut bytes).map_err(|error| corrupt(error.to_string()))?;
        bytes
    } else {
        raw
    };
    let (shape, values) = parse(&bytes).map_err(corrupt)?;
    Ok(IdxArray { shape, values, sha256: file::sha256(&bytes) })
}

fn parse(bytes: &[u8]) -> Result<(Vec<i64>, Vec<u8>), String> {
    let (magic, rest) = bytes.split_at_checked(4).ok_or("it is shorter than its 4-byte header")?;
    let &[0, 0, 0x08, dimensions] = magic else {
        return Err(format!("its first bytes are {magic:02x?}, expected [00, 00, 08, dimensions]"));
    };
    let (header, values) =
        rest.split_at_checked(4 * usize::from(dimensions)).ok_or("it ends inside the list of dimensions")?;
    let shape: Vec<i64> = header.as_chunks::<4>().0.iter().map(|size| i64::from(u32::from_be_bytes(*size))).collect();
    let expected = shape.iter().try_fold(1i64, |product, &size| product.checked_mul(size));
    if expected != Some(values.len() as i64) {
        return Err(format!("its header announces {shape:?} values, but {} bytes follow", values.len()));
    }
    Ok((shape, values.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &[u8] = &[0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6];

    #[test]
    fn reads_shape_and_values() {
        assert_eq!(parse(SMALL).unwrap(), (vec![2, 3], vec![1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn every_truncation_and_a_surplus_byte_are_errors() {
        for len in 0..SMALL.len() {
            assert!(parse(&SMALL[..len]).is_err(), "length {len}");
        }
        assert!(parse(&[SMALL, &[0]].concat()).unwrap_err().contains("7 bytes follow"));
    }

    #[test]
    fn dimensions_that_overflow_are_an_error() {
        let mut bytes = vec![0, 0, 8, 4];
        bytes.extend([0xff; 16]);
        assert!(parse(&bytes).is_err());
    }
}
