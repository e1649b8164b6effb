//! What the processes of a kernel say to each other: evcxr's own marks, our records, and notes.
//!
//! Records are lines of the runtime's standard output that begin with `RS` and hold JSON (as in RFC 7464). evcxr passes them
//! on, live and in order, as it does with every line that it does not know. Programs may send messages by such records;
//! the library `stemm` does.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

// Of evcxr 0.22, not part of its interface. tests/test_front.py has a test for each.
/// Ends the output of a cell.
pub const COMPLETE: &str = "EVCXR_EXECUTION_COMPLETE";
/// The cell panicked.
pub const PANIC: &str = "EVCXR_PANIC_NOTIFICATION";
/// A `?` in the cell met an error.
pub const ERROR: &str = "EVCXR_ERROR_OCCURRED";
/// Before the content of a display; the MIME type follows.
pub const BEGIN: &str = "EVCXR_BEGIN_CONTENT ";
/// After the content of a display.
pub const END: &str = "EVCXR_END_CONTENT";
/// A variable of an earlier cell has another type now; evcxr compiles and runs the cell once more.
pub const CHANGED: &str = "EVCXR_VARIABLE_CHANGED_TYPE:";
/// Asks the runtime to run a cell.
pub const RUN: &str = "LOAD_AND_RUN ";
/// In the environment of what evcxr starts.
pub const IS_RUNTIME: &str = "EVCXR_IS_RUNTIME";

/// In the environment of the runtime that the relay starts.
pub const INNER: &str = "STEMM_KERNEL_INNER";
/// In the environment of all: names the folder of the notes. The library `stemm` takes it as the sign of a live kernel.
pub const NOTES: &str = "STEMM_KERNEL";
const RS: char = '\u{1e}';

/// A line from the relay to the kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The cell is compiled and begins.
    Run,
    /// The cell was interrupted while it was compiled, and does not begin.
    NotRun,
    /// A part of a stream, where whole lines would be too late.
    Stdout { text: String },
    /// What was written to standard error.
    Stderr { text: String },
    /// The cell panicked, with the last words on standard error.
    Panic { text: String },
    /// A `?` met an error, with the last words on standard error.
    Error { text: String },
    /// The runtime ended.
    Died { signal: Option<i32>, code: Option<i32> },
    /// A Jupyter message of the cell's own, such as a display.
    Message { msg_type: String, content: Value },
}

impl Record {
    /// The record as a line, without its end.
    pub fn line(&self) -> String {
        // Strings and JSON values always serialise.
        format!("{RS}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// The record in a line, if there is one.
    pub fn of(line: &str) -> Option<Record> {
        serde_json::from_str(line.strip_prefix(RS)?).ok()
    }

    /// Whether a beginning of a line may become a record.
    pub fn begins(line: &[u8]) -> bool {
        line.first() == Some(&(RS as u8))
    }
}

/// Contents by MIME type as Jupyter wants them: JSON as values, everything else as text.
pub fn data(contents: impl IntoIterator<Item = (String, String)>) -> Map<String, Value> {
    let value = |mime: &str, content: String| match mime.ends_with("json") {
        true => serde_json::from_str(&content).unwrap_or(Value::String(content)),
        false => Value::String(content),
    };
    contents.into_iter().map(|(mime, content)| (mime.clone(), value(&mime, content))).collect()
}

/// A fact that the processes of a kernel share: an empty file in the kernel's own folder.
///
/// A file rather than a signal: it cannot kill a process that does not expect it, is one for however many copies of a library,
/// and is cleared at the start of each cell.
#[derive(Clone, Copy, Debug)]
pub enum Note {
    /// The cell is asked to stop.
    Interrupt,
    /// Somebody reads standard output: until then evcxr would wait for our records to be taken.
    Ready,
}

impl Note {
    fn path(self) -> Option<PathBuf> {
        let name = match self {
            Note::Interrupt => "interrupt",
            Note::Ready => "ready",
        };
        Some(PathBuf::from(std::env::var_os(NOTES)?).join(name))
    }

    /// Whether it is there.
    pub fn is_there(self) -> bool {
        self.path().is_some_and(|path| path.exists())
    }

    /// Leaves it for the others.
    pub fn leave(self) {
        if let Some(path) = self.path()
            && let Err(error) = std::fs::write(&path, "")
        {
            eprintln!("stemm_kernel: cannot write {}: {error}", path.display());
        }
    }

    /// Takes it away, if it is there.
    pub fn clear(self) {
        if let Some(path) = self.path() {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_and_comes_back() {
        let content = serde_json::json!({"data": {"text/plain": "two\nlines"}});
        let record = Record::Message { msg_type: "display_data".into(), content };
        let line = record.line();
        assert!(!line.contains('\n') && Record::begins(line.as_bytes()));
        assert_eq!(Record::of(&line), Some(record));
        assert_eq!(Record::of("{\"record\":\"run\"}"), None, "a line of a program");
        assert_eq!(Record::of("\u{1e}{\"record\":\"no such\"}"), None);
    }
}
