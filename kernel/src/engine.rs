//! The thread that owns evcxr: runs cells one after the other, and answers what only evcxr's rust-analyzer knows.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evcxr::{CommandContext, Error, EvalCallbacks, EvalOutputs};
use jupyter_protocol::{
    CompleteReply, CompleteRequest, ErrorOutput, ExecuteInput, ExecuteReply, ExecuteRequest, ExecutionCount,
    ExpressionResult, InspectReply, InspectRequest, JupyterMessage, JupyterMessageContent as Content, ReplyError,
    ReplyStatus, Status, StreamContent, UnknownMessage,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::cell::Current;
use crate::code::{
    Completeness, byte_offset, character_offset, completeness, end_of_subject, split_commands, without_command,
};
use crate::display::{Displaying, is_about_display};
use crate::failure::{self, Place, failure};
use crate::memory::Memory;
use crate::pump::{self, Flush};
use crate::records::{Note, data};
use crate::standard_library;

/// Output that has been written is waited for so long, at most.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// While the user is asked, so often is looked whether the cell is interrupted.
const INPUT_PACE: Duration = Duration::from_millis(100);
const NO_INPUT: &str = "This front end gives a cell no input: write the value into the cell, or read it from a file.\n";

/// A question to the user: whose request, the prompt, whether it is a password, and where the answer goes.
pub type Question = (JupyterMessage, String, bool, Sender<String>);

/// Where the engine's messages go, and what it shares with the front.
#[derive(Clone)]
pub struct Links {
    pub current: Arc<Current>,
    pub memory: Arc<Mutex<Memory>>,
    pub iopub: UnboundedSender<JupyterMessage>,
    pub shell: UnboundedSender<JupyterMessage>,
    pub questions: UnboundedSender<Question>,
}

impl Links {
    /// What can be told without evcxr.
    pub fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The receivers end only with the kernel.

    fn publish(&self, content: impl Into<Content>, request: &JupyterMessage) {
        let _ = self.iopub.send(JupyterMessage::new(content, Some(request)));
    }

    fn reply(&self, content: impl Into<Content>, request: &JupyterMessage) {
        let _ = self.shell.send(JupyterMessage::new(content, Some(request)));
    }
}

/// evcxr, and what its cells need.
pub struct Engine {
    context: CommandContext,
    links: Links,
    flush: Flush,
    count: usize,
    /// Variables that ended with their process, and the number of the cell in which it ended.
    lost: HashMap<String, usize>,
    /// Whether values may have a method `evcxr_display`: a library brings it along.
    can_display: bool,
    /// Whether what the configuration file asks for is done: a crate of it may have been edited, and not compile.
    is_configured: bool,
}

impl Engine {
    /// Starts evcxr, which compiles and runs a first line: seconds. Does what its configuration file asks for.
    pub fn new(links: Links) -> Result<Engine, Error> {
        let (context, outputs) = standard_library::without(CommandContext::new)?;
        links.current.set_process(context.process_handle());
        let flush = pump::start(links.current.clone(), outputs.stdout, outputs.stderr);
        Note::Ready.leave();
        let lost = HashMap::new();
        let mut engine = Engine { context, links, flush, count: 0, lost, can_display: false, is_configured: false };
        let _ = engine.configure(); // else the first cell says what is wrong
        Ok(engine)
    }

    /// Does what the configuration file asks for, unless it is done.
    fn configure(&mut self) -> Result<(), Error> {
        if !self.is_configured {
            self.context.execute(":load_config --quiet").map_err(|error| {
                let what = match error {
                    Error::CompilationErrors(_) => "a crate that all cells use does not compile",
                    _ => "what the configuration of evcxr asks for cannot be done",
                };
                Error::from(format!("{what}: mend it, and run the cell again\n{error}"))
            })?;
            self.is_configured = true;
        }
        Ok(())
    }

    /// Does what the first cells would wait for, unless somebody waits already: reads the crates for their types, and loads
    /// the libraries by running a line that leaves nothing behind.
    pub fn warm_up(&mut self, mut is_asked: impl FnMut() -> bool) {
        let Ok(line) = std::env::var("STEMM_KERNEL_WARM_UP") else { return };
        let word = "let warm = std::env::args(); warm.";
        if !is_asked() {
            let _ = self.context.completions(word, word.len());
        }
        if !is_asked() {
            let _ = self.context.execute(&line);
        }
    }

    /// Answers requests until there are no more, beginning with one that was taken out of them.
    pub fn run(mut self, first: Option<JupyterMessage>, requests: &Receiver<JupyterMessage>) {
        for request in first.into_iter().chain(requests.iter()) {
            self.links.publish(Status::busy(), &request);
            let mut waiting = Vec::new();
            match &request.content {
                Content::ExecuteRequest(execute) => {
                    let reply = self.execute(&request, execute);
                    if reply.status != ReplyStatus::Ok && execute.stop_on_error {
                        // Before the failure is known: what is sent then is meant to run.
                        waiting.extend(requests.try_iter());
                    }
                    self.links.reply(reply, &request);
                }
                Content::CompleteRequest(complete) => {
                    let reply = self.complete(complete);
                    self.links.reply(reply, &request);
                }
                Content::InspectRequest(inspect) => {
                    let reply = self.inspect(inspect);
                    self.links.reply(reply, &request);
                }
                _ => {} // the front answers the others
            }
            self.links.publish(Status::idle(), &request);
            self.abort(waiting);
        }
    }

    /// Cells that were sent before the failure was known do not run.
    fn abort(&self, requests: Vec<JupyterMessage>) {
        for waiting in requests {
            self.links.publish(Status::busy(), &waiting);
            match &waiting.content {
                Content::ExecuteRequest(_) => {
                    let reply = ExecuteReply { status: ReplyStatus::Aborted, ..ExecuteReply::default() };
                    self.links.reply(reply, &waiting);
                }
                Content::CompleteRequest(_) => self.links.reply(CompleteReply::default(), &waiting),
                _ => self.links.reply(InspectReply::default(), &waiting),
            }
            self.links.publish(Status::idle(), &waiting);
        }
    }

    fn execute(&mut self, request: &JupyterMessage, execute: &ExecuteRequest) -> ExecuteReply {
        let is_stored = !execute.silent && execute.store_history;
        self.count += usize::from(is_stored);
        let execution_count = ExecutionCount::new(self.count);
        if !execute.silent {
            self.links.publish(ExecuteInput { code: execute.code.clone(), execution_count }, request);
        }
        let result = self.run_code(request, &execute.code, execute.allow_stdin);
        let text = result.as_ref().ok().and_then(|outputs| outputs.get("text/plain")).unwrap_or_default().to_owned();
        if is_stored {
            self.links.memory().add_cell(self.count, &execute.code, &text);
        }
        self.note_names();
        match result {
            Err(error) => {
                if !execute.silent {
                    self.links.publish(error.clone(), request);
                }
                let ErrorOutput { ename, evalue, traceback } = error;
                let error = Some(Box::new(ReplyError { ename, evalue, traceback }));
                ExecuteReply { status: ReplyStatus::Error, execution_count, error, ..ExecuteReply::default() }
            }
            Ok(outputs) => {
                if let Some(duration) = outputs.timing {
                    let seconds = |duration: Duration| format!("{:.3} s", duration.as_secs_f64());
                    let phases =
                        outputs.phases.iter().map(|phase| format!("{} {}", phase.name, seconds(phase.duration)));
                    let phases = phases.collect::<Vec<_>>().join(", ");
                    self.links
                        .publish(StreamContent::stdout(&format!("Took {} ({phases})\n", seconds(duration))), request);
                }
                if !outputs.is_empty() && !execute.silent {
                    let data = data(outputs.content_by_mime_type);
                    let content = json!({"execution_count": self.count, "data": data, "metadata": {}});
                    self.links.publish(UnknownMessage { msg_type: "execute_result".into(), content }, request);
                }
                let asked = execute.user_expressions.clone().unwrap_or_default();
                let user_expressions = Some(self.expressions(request, asked));
                ExecuteReply { execution_count, user_expressions, ..ExecuteReply::default() }
            }
        }
    }

    /// Runs code as a cell: what it shows last, or what went wrong.
    fn run_code(&mut self, request: &JupyterMessage, code: &str, may_ask: bool) -> Result<EvalOutputs, ErrorOutput> {
        if completeness(split_commands(code).1) == Completeness::Invalid {
            return Err(failure::of_brackets()); // evcxr would take it for nothing
        }
        self.links.current.begin(request);
        let variables: Vec<String> = self.context.variables_and_types().map(|(name, _)| name.to_owned()).collect();
        // evcxr's own command forgets to forget the variables.
        let (code, is_restart) = without_command(code, ":restart");
        if is_restart {
            self.links.current.kill();
            let _ = self.context.execute("();"); // fails, and starts another process
        }
        self.can_display |= code.contains("use ");
        let mut displaying = Displaying::new(&code).filter(|_| self.can_display);
        let compiled = displaying.as_ref().map_or(code.as_str(), |displaying| &displaying.code);
        let mut result = self.execute_code(request, compiled, may_ask);
        if displaying.is_some() && is_about_display(&result) {
            displaying = None;
            result = self.execute_code(request, &code, may_ask);
            // A debug text without the method: no library has brought it. Neither of both: that is a matter of this value.
            self.can_display = result.is_err();
        }
        let (done, is_done) = crossbeam_channel::bounded(1);
        if self.flush.send(done).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_LIMIT);
        }
        let cell = self.links.current.end();
        if is_restart || matches!(result, Err(Error::SubprocessTerminated(_))) {
            self.lost.extend(variables.into_iter().map(|name| (name, self.count)));
        }
        for (name, _) in self.context.variables_and_types() {
            self.lost.remove(name);
        }
        let place = Place { code: &code, displaying: displaying.as_ref(), lost: &self.lost };
        match failure(&cell, &result, &place, || self.context.last_source().unwrap_or_default()) {
            Some(error) => Err(error),
            None => Ok(result.unwrap_or_default()),
        }
    }

    /// Has evcxr compile and run code, and outlive it.
    fn execute_code(&mut self, request: &JupyterMessage, code: &str, may_ask: bool) -> Result<EvalOutputs, Error> {
        self.configure()?;
        let (context, links) = (&mut self.context, &self.links);
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut callbacks =
                EvalCallbacks { input_reader: &|input| links.ask(request, may_ask, input.prompt, input.is_password) };
            context.execute_with_callbacks(code, &mut callbacks)
        }));
        result.unwrap_or_else(|_| {
            let words = "evcxr failed over this code, and did not run it (its words are in the server's log)";
            Err(Error::from(words.to_owned()))
        })
    }

    fn expressions(
        &mut self,
        request: &JupyterMessage,
        asked: HashMap<String, String>,
    ) -> HashMap<String, ExpressionResult> {
        let mut answers = HashMap::new();
        for (name, code) in asked {
            let answer = match self.run_code(request, &code, false) {
                Ok(outputs) => {
                    let data = Value::Object(data(outputs.content_by_mime_type));
                    ExpressionResult::Ok {
                        data: serde_json::from_value(data).unwrap_or_default(),
                        metadata: Default::default(),
                    }
                }
                Err(ErrorOutput { ename, evalue, traceback }) => ExpressionResult::Error { ename, evalue, traceback },
            };
            answers.insert(name, answer);
        }
        answers
    }

    fn note_names(&self) {
        let variables = self.context.variables_and_types().map(|(name, _)| name);
        let mut names: Vec<String> = variables.chain(self.context.defined_item_names()).map(str::to_owned).collect();
        names.sort();
        self.links.memory().names = names;
    }

    fn complete(&mut self, request: &CompleteRequest) -> CompleteReply {
        let (code, cursor) = (&request.code, request.cursor_pos);
        let context = &mut self.context;
        let found = catch_unwind(AssertUnwindSafe(|| context.completions(code, byte_offset(code, cursor))));
        let Ok(Ok(found)) = found else {
            return CompleteReply { cursor_start: cursor, cursor_end: cursor, ..CompleteReply::default() };
        };
        let (start, end) = (character_offset(code, found.start_offset), character_offset(code, found.end_offset));
        // An ellipsis stands for what the reader has to write: such code would not compile.
        let items: Vec<_> = found.completions.into_iter().filter(|item| !item.code.contains('…')).collect();
        let types = items.iter().map(
            |item| json!({"text": item.code, "type": item.kind, "signature": item.label, "start": start, "end": end}),
        );
        let mut metadata = serde_json::Map::new();
        metadata.insert("_jupyter_types_experimental".into(), types.collect());
        let matches = items.iter().map(|item| item.code.clone()).collect();
        CompleteReply { matches, cursor_start: start, cursor_end: end, metadata, ..CompleteReply::default() }
    }

    fn inspect(&mut self, request: &InspectRequest) -> InspectReply {
        let code = &request.code;
        let end = end_of_subject(code, byte_offset(code, request.cursor_pos));
        let context = &mut self.context;
        match catch_unwind(AssertUnwindSafe(|| context.hover_at(code, end))) {
            Ok(Ok((plain, html))) if plain != "No documentation found" => {
                let data = json!({"text/plain": plain, "text/html": html});
                InspectReply {
                    found: true,
                    data: serde_json::from_value(data).unwrap_or_default(),
                    ..InspectReply::default()
                }
            }
            _ => InspectReply::default(),
        }
    }
}

impl Links {
    /// Asks the user for a line; an interrupt is an empty answer.
    fn ask(&self, request: &JupyterMessage, may_ask: bool, prompt: String, is_password: bool) -> String {
        let (answer, answered) = channel();
        if !may_ask || self.questions.send((request.clone(), prompt, is_password, answer)).is_err() {
            self.publish(StreamContent::stderr(NO_INPUT), request);
            return String::new();
        }
        loop {
            match answered.recv_timeout(INPUT_PACE) {
                Ok(line) => return line,
                Err(RecvTimeoutError::Timeout) if !self.current.cell().is_interrupted() => {}
                Err(_) => return String::new(),
            }
        }
    }
}
