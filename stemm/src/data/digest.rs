//! What data are, as one number: a checkpoint goes on with these samples, labels and preparation only.

use sha2::{Digest, Sha256};
use tch::{Device, Tensor};

use super::{Dataset, Splits};
use crate::error::Result;

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
                digest.update(bytes(&tensor.f_narrow(0, start, PIECE.min(samples - start))?)?);
            }
        }
        Ok(())
    }
}

impl Splits {
    /// SHA-256 of what a training sees: the training data and, since they choose the result, the held-out data.
    pub(crate) fn training_digest(&self) -> Result<String> {
        let mut digest = Sha256::new();
        self.train.add_to(&mut digest)?;
        self.held_out.add_to(&mut digest)?;
        Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * tensor.f_kind()?.elt_size_in_bytes()];
    tensor.f_to_device(Device::Cpu)?.f_contiguous()?.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}
