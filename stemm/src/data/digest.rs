//! What data are, as one number: a checkpoint goes on with these samples, labels and preparation only.

use sha2::{Digest, Sha256};

use super::{Dataset, Splits};
use crate::error::Result;
use crate::file;

/// Samples that are copied at a time.
const PIECE: i64 = 1_000;

impl Dataset {
    /// Adds samples, labels and their preparation.
    fn add_to(&self, digest: &mut Sha256) -> Result<()> {
        digest.update(self.description());
        digest.update(self.classes.to_le_bytes());
        for tensor in [&self.images, &self.labels] {
            let samples = self.len() as i64;
            digest.update(format!("{:?}", tensor.size()));
            for start in (0..samples).step_by(PIECE as usize) {
                digest.update(file::bytes_of(&tensor.f_narrow(0, start, PIECE.min(samples - start))?)?);
            }
        }
        Ok(())
    }
}

impl Splits {
    /// SHA-256 of what a training sees: the training data and, since they choose the result, the held-out data.
    pub(crate) fn training_digest(&self) -> Result<String> {
        digest_of(&[&self.train, &self.held_out])
    }

    /// SHA-256 of all parts: what a report sees.
    pub(crate) fn digest(&self) -> Result<String> {
        digest_of(&[&self.train, &self.held_out, &self.test])
    }
}

fn digest_of(parts: &[&Dataset]) -> Result<String> {
    let mut digest = Sha256::new();
    parts.iter().try_for_each(|part| part.add_to(&mut digest))?;
    Ok(file::hexadecimal(digest))
}
