//! Threads that work on several models at once, each with its own share of the processor.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// As many threads as libtorch uses for one operation; inside each of them libtorch uses one.
pub(crate) struct Workers {
    pool: rayon::ThreadPool,
}

impl Workers {
    pub(crate) fn new() -> Result<Workers> {
        let threads = tch::get_num_threads();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1) as usize)
            .build()
            .map_err(|error| Error::Threads { reason: error.to_string() })?;
        // The setting holds for the thread that makes it, and for threads that are new to libtorch.
        pool.broadcast(|_| tch::set_num_threads(1));
        tch::set_num_threads(threads);
        Ok(Workers { pool })
    }

    /// Applies a function to each item; the answers in the order of the items.
    ///
    /// Items that would leave threads idle at the end are done one by one, with all threads for each operation.
    pub(crate) fn map<T: Send, R: Send>(
        &self,
        items: &mut [T],
        work: impl Fn(&mut T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let whole = items.len() - items.len() % self.pool.current_num_threads();
        let (together, alone) = items.split_at_mut(whole);
        let mut answers = self.pool.install(|| together.par_iter_mut().map(&work).collect::<Result<Vec<R>>>())?;
        for item in alone {
            answers.push(work(item)?);
        }
        Ok(answers)
    }
}
