//! Threads that work on several models at once, each with its own share of the processor.

use std::ffi::c_int;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_NOW, Symbol};
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

/// Sets of a library how many threads its operations use in the thread that calls it.
type Set = unsafe extern "C" fn(c_int) -> c_int;

/// Has libtorch's operations in this thread use no other; says whether they do. `tch::set_num_threads` would also decide for every
/// thread that happens to be new to libtorch before the number is set back: its results would have other bits.
fn one_thread() -> bool {
    static OPENMP: OnceLock<Option<Symbol<Set>>> = OnceLock::new();
    static MKL: OnceLock<Option<Symbol<Set>>> = OnceLock::new();
    let _ = tch::get_num_threads(); // now libtorch sets them, and not later
    let openmp = OPENMP.get_or_init(|| loaded("libgomp.so.1", "omp_set_num_threads"));
    // Where libtorch has no MKL there is nothing to set.
    let mkl = MKL.get_or_init(|| loaded("libtorch_cpu.so", "MKL_Set_Num_Threads_Local"));
    for set in [openmp, mkl].into_iter().flatten() {
        // SAFETY: what OpenMP and MKL say of these functions; one of them gives nothing, which is not read.
        unsafe { set(1) };
    }
    tch::get_num_threads() == 1
}

/// A function of a library that is loaded already, and stays so.
fn loaded(library: &str, function: &str) -> Option<Symbol<Set>> {
    // SAFETY: nothing runs that has not run when libtorch was loaded.
    let library = unsafe { Library::open(Some(library), RTLD_NOW) }.ok()?;
    // SAFETY: the functions that are asked for are of this type.
    unsafe { library.get::<Set>(function) }.ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Threads of libtorch's operations and of MKL's in this thread.
    fn threads() -> [c_int; 2] {
        let all = tch::get_num_threads();
        let mkl = loaded("libtorch_cpu.so", "MKL_Get_Max_Threads");
        // SAFETY: it takes nothing, and so reads nothing.
        [all, mkl.map_or(all, |mkl| unsafe { mkl(0) })]
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
            let mut items = vec![(); all[0] as usize];
            let own = (0..200).map(|_| Workers::new(Device::Cpu)?.map(&mut items, |()| Ok(threads())));
            let own = own.collect::<Result<Vec<_>>>();
            done.store(true, Ordering::Relaxed);
            if all[0] > 1 {
                assert!(own?.concat().iter().all(|own| *own == [1, 1]));
            }
            assert!(others.join().unwrap().into_iter().all(|own| own.unwrap() == all));
            Ok(())
        })
    }
}
