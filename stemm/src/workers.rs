//! Threads that work on several models at once, each with its own share of the processor.

use std::ffi::c_int;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_NOW};
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
        if pool.broadcast(|_| one_thread()).contains(&false) {
            // Where OpenMP or MKL cannot be asked: the number also holds for threads that are new to libtorch at this moment.
            pool.broadcast(|_| tch::set_num_threads(1));
            tch::set_num_threads(threads);
        }
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

/// Has libtorch's operations in this thread use no other; says whether they do. `tch::set_num_threads` would also decide for every
/// thread that happens to be new to libtorch before the number is set back: its results would have other bits.
fn one_thread() -> bool {
    let _ = tch::get_num_threads(); // now libtorch sets them, and not later
    let Some(libtorch) = libtorch() else { return false };
    // SAFETY: `void omp_set_num_threads(int)` and `int MKL_Set_Num_Threads_Local(int)`.
    unsafe {
        if let Ok(set) = libtorch.get::<unsafe extern "C" fn(c_int)>("omp_set_num_threads") {
            set(1);
        }
        match libtorch.get::<unsafe extern "C" fn(c_int) -> c_int>("MKL_Set_Num_Threads_Local") {
            Ok(set) => {
                set(1);
            }
            Err(_) if tch::utils::has_mkl() => return false,
            Err(_) => (),
        }
    }
    tch::get_num_threads() == 1
}

/// libtorch, in which functions of the libraries that it uses are found as well, whatever their files are called.
fn libtorch() -> Option<&'static Library> {
    static LIBTORCH: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: it is loaded already.
    LIBTORCH.get_or_init(|| unsafe { Library::open(Some("libtorch_cpu.so"), RTLD_NOW) }.ok()).as_ref()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Threads of libtorch's operations and of MKL's in this thread.
    fn threads() -> [c_int; 2] {
        let all = tch::get_num_threads();
        if !tch::utils::has_mkl() {
            return [all, all];
        }
        // SAFETY: `int MKL_Get_Max_Threads(void)`.
        [all, unsafe { libtorch().unwrap().get::<unsafe extern "C" fn() -> c_int>("MKL_Get_Max_Threads").unwrap()() }]
    }

    /// Sets it also where a test ends early: whoever waits for it does not wait for ever.
    struct Sets<'a>(&'a AtomicBool);

    impl Drop for Sets<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn threads_that_start_meanwhile_have_all_threads_and_those_of_the_pool_one() -> Result<()> {
        let all = threads();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                let mut counts = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    counts.push(std::thread::scope(|new| new.spawn(threads).join()));
                }
                counts
            });
            let ends = Sets(&done);
            let mut items = vec![(); all[0] as usize];
            let own = (0..200).map(|_| Workers::new(Device::Cpu)?.map(&mut items, |()| Ok(threads())));
            let own = own.collect::<Result<Vec<_>>>();
            drop(ends);
            if all[0] > 1 {
                assert!(own?.concat().iter().all(|own| *own == [1, 1]));
            }
            assert!(others.join().unwrap().into_iter().all(|own| own.unwrap() == all));
            Ok(())
        })
    }
}
