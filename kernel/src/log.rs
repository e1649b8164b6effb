//! What evcxr says on the kernel's own standard error: the server's log gets it, and the cell what concerns its reader.

use std::fs::File;
use std::io::{BufRead, BufReader, Result, Write};
use std::sync::Arc;

use jupyter_protocol::StreamContent;
use rustix::pipe::pipe;
use rustix::stdio::{dup2_stderr, stderr};

use crate::cell::Current;

/// Puts a pipe in place of standard error, and starts the thread that reads it.
///
/// # Errors
/// No more open files are allowed.
pub fn watch(current: Arc<Current>) -> Result<()> {
    let mut log = File::from(stderr().try_clone_to_owned()?);
    let (read, write) = pipe()?;
    dup2_stderr(&write)?;
    std::thread::spawn(move || {
        for line in BufReader::new(File::from(read)).lines().map_while(Result::ok) {
            let _ = writeln!(log, "{line}"); // the server may have closed it
            if let Some(text) = for_reader(&line) {
                current.publish(StreamContent::stdout(&text));
            }
        }
    });
    Ok(())
}

/// The line as a cell shows it, if it is of use there: crates that are compiled take their time.
fn for_reader(line: &str) -> Option<String> {
    line.trim_start().starts_with("Compiling ").then(|| format!("{}\n", line.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reader_sees_what_is_compiled_and_nothing_else() {
        assert_eq!(for_reader("   Compiling roman v0.1.6").as_deref(), Some("Compiling roman v0.1.6\n"));
        assert_eq!(for_reader("Panic detected. Here's some useful information"), None);
    }
}
