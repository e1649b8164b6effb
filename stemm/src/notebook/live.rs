//! What the kernel "Rust (stemm)" can do beyond other evcxr kernels: show values while the cell runs, replace what is shown,
//! and ask a cell to stop.

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::{Bundle, NotebookDisplay};

/// The folder in which the kernel leaves its notes, if it is that kernel.
fn notes() -> Option<&'static Path> {
    static NOTES: OnceLock<Option<std::path::PathBuf>> = OnceLock::new();
    NOTES.get_or_init(|| std::env::var_os("STEMM_KERNEL").map(Into::into)).as_deref()
}

/// Whether the kernel shows things while a cell runs, and asks cells to stop.
pub(crate) fn is_live() -> bool {
    notes().is_some()
}

/// Whether the user has pressed "interrupt". For loops of your own; costs about a microsecond. Always false in other kernels
/// and in programs.
///
/// ```
/// for step in 0..3 {
///     if stemm::interrupted() {
///         break;
///     }
///     println!("step {step}");
/// }
/// ```
pub fn interrupted() -> bool {
    notes().is_some_and(|folder| folder.join("interrupt").exists())
}

/// Empties the output of the cell: at once, or when the next output comes (`wait`, which does not flicker). Nothing happens
/// in kernels that cannot.
pub fn clear_output(wait: bool) {
    send("clear_output", json!({"wait": wait}));
}

/// A message to the front end, sent at once, in a live notebook.
fn send(kind: &str, content: Value) {
    if !is_live() {
        return;
    }
    let record = json!({"record": "message", "msg_type": kind, "content": content});
    let mut out = std::io::stdout().lock();
    // A broken pipe must not stop the work.
    let _ = out.write_all(format!("\u{1e}{record}\n").as_bytes()).and_then(|()| out.flush());
}

/// Something shown in the notebook, which can be replaced where it stands. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Shown {
    id: String,
}

impl Shown {
    pub(crate) fn new(bundle: &Bundle) -> Shown {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let id = format!("stemm-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        send("display_data", content(bundle, &id));
        Shown { id }
    }

    pub(crate) fn update(&self, bundle: &Bundle) {
        send("update_display_data", content(bundle, &self.id));
    }

    /// Shows another value in its place, also from a later cell. Other kernels show it below.
    ///
    /// ```
    /// use stemm::prelude::*;
    /// let shown = show(&"step 1");
    /// shown.replace(&"step 2");
    /// ```
    pub fn replace<T: NotebookDisplay + ?Sized>(&self, value: &T) {
        match is_live() {
            true => self.update(&value.bundle()),
            false => value.evcxr_display(),
        }
    }
}

fn content(bundle: &Bundle, id: &str) -> Value {
    json!({"data": bundle.data(), "metadata": bundle.metadata, "transient": {"display_id": id}})
}

/// Shows a value now, while the cell runs, and as often as you like: charts, frames, tensors, results, or any value with a
/// debug text. Other kernels show it at the end of the cell, and of several the last one.
///
/// ```
/// use stemm::prelude::*;
/// for rate in [0.1, 0.2] {
///     show(&format!("learning rate {rate}"));
/// }
/// ```
pub fn show<T: NotebookDisplay + ?Sized>(value: &T) -> Shown {
    let bundle = value.bundle();
    if !is_live() {
        bundle.print();
    }
    Shown::new(&bundle)
}
