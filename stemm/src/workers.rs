//! Threads that work on several models at once, each with its own share of the processor.

use rayon::prelude::*;
use tch::Device;

use crate::error::{Error, Result};

/// As many threads as libtorch uses for one operation; inside each of them libtorch uses one.
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
    /// Whether the operations run elsewhere, on a GPU, and threads only hand them over and solve what comes back.
    elsewhere: bool,
}

impl Workers {
    /// For operations on tensors of a device.
    pub(crate) fn new(device: Device) -> Result<Workers> {
        let threads = tch::get_num_threads();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1) as usize)
            .build()
            .map_err(|error| Error::Threads { reason: error.to_string() })?;
        // The setting holds for the thread that makes it, and for threads that are new to libtorch.
        pool.broadcast(|_| tch::set_num_threads(1));
        tch::set_num_threads(threads);
        Ok(Workers { pool, elsewhere: device != Device::Cpu })
    }

    /// Applies a function to each item; the answers in the order of the items.
    ///
    /// Items that would leave threads idle at the end are done one by one, with all threads for each operation, if these
    /// are done by threads.
    pub(crate) fn map<T: Send, R: Send>(
        &self,
        items: &mut [T],
        work: impl Fn(&mut T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let rest = if self.elsewhere { 0 } else { items.len() % self.pool.current_num_threads() };
        let whole = items.len() - rest;
        let (together, alone) = items.split_at_mut(whole);
        let mut answers = self.pool.install(|| together.par_iter_mut().map(&work).collect::<Result<Vec<R>>>())?;
        for item in alone {
            answers.push(work(item)?);
        }
        Ok(answers)
    }
}
