//! The cell that runs: what is known of it, and how it is asked to stop.

use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use jupyter_protocol::{JupyterMessage, JupyterMessageContent, StreamContent};
use tokio::sync::mpsc::UnboundedSender;

use crate::process::kill_compiler;
use crate::records::{Note, Record};

/// A second interrupt this soon after the first is taken for the same.
const SECOND_AFTER: Duration = Duration::from_millis(500);
/// A cell that has not stopped after so long is said not to ask.
const HINT_AFTER: Duration = Duration::from_secs(3);
const HINT: &str = "Interrupt noted, but the cell has not come to a place where it can stop (a loop of your own can ask \
    `stemm::interrupted()`). Interrupt again to end its process, which loses all variables.\n";
/// The compiler is ended so often until the cell ends: it may not have been started yet, or be started again.
const COMPILER_PACE: Duration = Duration::from_millis(100);

/// The state of one execution.
#[derive(Default)]
pub struct Cell {
    request: Option<JupyterMessage>,
    /// Compiled, and on its way.
    pub is_running: bool,
    interrupted: Option<Instant>,
    /// The panic or error that ended it, and how its process ended.
    pub failure: Option<Record>,
    pub death: Option<Record>,
}

impl Cell {
    /// Whether the user has asked it to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.is_some()
    }

    fn is_of(&self, request: &JupyterMessage) -> bool {
        self.request.as_ref().is_some_and(|own| own.header.msg_id == request.header.msg_id)
    }
}

/// Where everything meets that concerns the running cell.
pub struct Current {
    cell: Mutex<Cell>,
    iopub: UnboundedSender<JupyterMessage>,
    /// The process that evcxr knows: the relay.
    process: OnceLock<Arc<Mutex<Child>>>,
}

impl Current {
    /// No cell runs; messages go to `iopub`.
    pub fn new(iopub: UnboundedSender<JupyterMessage>) -> Current {
        Current { cell: Mutex::default(), iopub, process: OnceLock::new() }
    }

    /// The state of the cell that runs.
    pub fn cell(&self) -> MutexGuard<'_, Cell> {
        self.cell.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes the process that runs cells; evcxr keeps this handle when it starts another one.
    pub fn set_process(&self, process: Arc<Mutex<Child>>) {
        let _ = self.process.set(process); // evcxr has one
    }

    /// Whether a cell is being compiled or runs.
    pub fn is_busy(&self) -> bool {
        self.cell().request.is_some()
    }

    /// A request begins.
    pub fn begin(&self, request: &JupyterMessage) {
        Note::Interrupt.clear();
        *self.cell() = Cell { request: Some(request.clone()), ..Cell::default() };
    }

    /// It has ended; what became of it.
    pub fn end(&self) -> Cell {
        let cell = std::mem::take(&mut *self.cell());
        Note::Interrupt.clear();
        cell
    }

    /// Publishes a message of the running cell; without one, there is nobody to address.
    pub fn publish(&self, content: impl Into<JupyterMessageContent>) {
        if let Some(request) = &self.cell().request {
            let _ = self.iopub.send(JupyterMessage::new(content, Some(request))); // closed only at the end
        }
    }

    /// Ends the process that runs cells.
    pub fn kill(&self) {
        if let Some(process) = self.process.get() {
            let _ = process.lock().unwrap_or_else(std::sync::PoisonError::into_inner).kill();
        }
    }

    /// Asks the cell to stop; asked again, ends its process. Nothing happens where nothing runs.
    pub fn interrupt(self: &Arc<Self>) {
        let mut cell = self.cell();
        let Some(request) = cell.request.clone() else { return };
        match cell.interrupted {
            Some(first) if cell.is_running && first.elapsed() >= SECOND_AFTER => {
                drop(cell);
                self.kill();
            }
            Some(_) => {}
            None => {
                cell.interrupted = Some(Instant::now());
                Note::Interrupt.leave();
                let current = self.clone();
                std::thread::spawn(move || current.see_it_end(&request));
            }
        }
    }

    /// Ends the compiler until the cell runs or has ended; if it runs on, says how it can be stopped.
    fn see_it_end(&self, request: &JupyterMessage) {
        let begin = Instant::now();
        let mut has_hinted = false;
        while self.cell().is_of(request) {
            if !self.cell().is_running {
                kill_compiler();
            } else if begin.elapsed() >= HINT_AFTER && !has_hinted {
                self.publish(StreamContent::stderr(HINT));
                has_hinted = true;
            }
            std::thread::sleep(COMPILER_PACE);
        }
    }
}
