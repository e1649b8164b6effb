//! A library that the process with the variables loads beside the cells, and that shares Rust's standard library with them: both are
//! linked to it dynamically, where the programs of this package hold it in themselves.

use std::ffi::c_void;
use std::io::Write;

/// Hands on what cells have begun to write: `print!` keeps a line to itself until it is whole. Called again and again while a cell
/// runs, and after it as a cell of its own: it gets the variables and gives them back.
#[unsafe(no_mangle)]
pub extern "C" fn stemm_kernel_flush(variables: *mut c_void) -> *mut c_void {
    let _ = std::io::stdout().flush(); // nobody reads: the process is about to be ended
    variables
}
