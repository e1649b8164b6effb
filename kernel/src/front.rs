//! Jupyter's sockets: what can be answered at once is, also while a cell runs; the rest goes to the engine.

use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use jupyter_protocol::{
    CodeMirrorMode, CommInfoReply, ConnectionInfo, DebugReply, HelpLink, InputRequest, InspectReply, InterruptReply,
    IsCompleteReply, IsCompleteReplyStatus, JupyterMessage, JupyterMessageContent as Content, KernelInfoReply,
    LanguageInfo, ReplyStatus, ShutdownReply, Status,
};
use jupyter_zmq_client::{
    KernelControlConnection, KernelIoPubConnection, KernelStdinConnection, RouterRecvConnection, RouterSendConnection,
    create_kernel_control_connection, create_kernel_heartbeat_connection, create_kernel_iopub_connection,
    create_kernel_shell_connection, create_kernel_stdin_connection,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cell::Current;
use crate::code::{Completeness, completeness};
use crate::engine::{Engine, Links, Question};
use crate::request::next;

/// Anything that ends the kernel.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// evcxr parses cells by recursion.
const STACK: usize = 64 << 20;
/// After the answer to a shutdown, for the last messages to leave.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// So often is looked whether Jupyter has ended.
const PARENT_PACE: Duration = Duration::from_millis(500);

/// Serves a connection file until Jupyter ends the kernel, or has ended itself.
///
/// # Errors
/// A connection file that cannot be read, or sockets that cannot be bound.
pub fn serve(connection_file: &Path) -> Result<()> {
    let connection: ConnectionInfo = serde_json::from_str(&std::fs::read_to_string(connection_file)?)?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run(&connection))
}

async fn run(connection: &ConnectionInfo) -> Result<()> {
    let session = uuid::Uuid::new_v4().to_string();
    let mut heartbeat = create_kernel_heartbeat_connection(connection).await?;
    let (to_shell, from_shell) = create_kernel_shell_connection(connection, &session).await?.split();
    let control = create_kernel_control_connection(connection, &session).await?;
    let stdin = create_kernel_stdin_connection(connection, &session).await?;
    // Not XPUB, although it could greet its clients (JEP 65): there, one client that stops reading stops all others.
    let publisher = create_kernel_iopub_connection(connection, &session).await?;

    let (iopub, published) = unbounded_channel();
    let (shell, replies) = unbounded_channel();
    let (questions, asked) = unbounded_channel();
    let current = Arc::new(Current::new(iopub.clone()));
    crate::log::watch(current.clone())?;
    let links = Links { current, memory: Arc::default(), iopub, shell, questions };

    tokio::spawn(async move { while heartbeat.single_heartbeat().await.is_ok() {} });
    tokio::spawn(publish(publisher, published));
    tokio::spawn(reply(to_shell, replies));
    tokio::spawn(ask(stdin, asked));
    // Jupyter sees the kernel at once; cells wait for the engine.
    tokio::spawn(answer(from_shell, links.clone(), start_engine(links.clone())?));
    let result = tokio::select! {
        result = control_loop(control, links.clone()) => result,
        () = jupyters_end() => Ok(()),
    };
    links.current.kill();
    result
}

/// Returns when Jupyter has ended, if the kernel is to end with it: Jupyter says so by a variable.
async fn jupyters_end() {
    let jupyter = parent_id();
    if std::env::var_os("JPY_PARENT_PID").is_none() {
        std::future::pending().await
    }
    while parent_id() == jupyter {
        tokio::time::sleep(PARENT_PACE).await;
    }
}

/// Starts the engine's thread; requests wait in the channel until it is ready.
fn start_engine(links: Links) -> Result<Sender<JupyterMessage>> {
    let (requests, queue) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name("engine".into()).stack_size(STACK);
    thread.spawn(move || match Engine::new(links) {
        Ok(mut engine) => {
            // One request is taken out to see whether there is one; it is answered first.
            let mut first = None;
            engine.warm_up(|| {
                first = first.take().or_else(|| queue.try_recv().ok());
                first.is_some()
            });
            engine.run(first, &queue);
        }
        Err(error) => {
            eprintln!("stemm_kernel: evcxr does not start: {error}");
            std::process::exit(1);
        }
    })?;
    Ok(requests)
}

async fn publish(mut socket: KernelIoPubConnection, mut messages: UnboundedReceiver<JupyterMessage>) {
    while let Some(message) = messages.recv().await {
        // A published message has no addressee.
        if let Err(error) = socket.send(message.with_zmq_identities(Vec::new())).await {
            eprintln!("stemm_kernel: a message is lost: {error}");
        }
    }
}

async fn reply(mut socket: RouterSendConnection, mut messages: UnboundedReceiver<JupyterMessage>) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = socket.send(message).await {
            eprintln!("stemm_kernel: a reply is lost: {error}");
        }
    }
}

async fn ask(mut socket: KernelStdinConnection, mut questions: UnboundedReceiver<Question>) {
    while let Some((request, prompt, password, answer)) = questions.recv().await {
        let question = JupyterMessage::new(InputRequest { prompt, password }, Some(&request));
        let line = match socket.send(question).await {
            Ok(()) => match socket.read().await {
                Ok(JupyterMessage { content: Content::InputReply(reply), .. }) => reply.value,
                _ => String::new(),
            },
            Err(_) => String::new(),
        };
        let _ = answer.send(line); // the cell may have been interrupted meanwhile
    }
}

/// Answers requests on the shell socket, or hands them to the engine.
async fn answer(mut socket: RouterRecvConnection, links: Links, engine: Sender<JupyterMessage>) {
    loop {
        let request = next(&mut socket).await;
        let is_busy = links.current.is_busy();
        let content: Content = match &request.content {
            Content::ExecuteRequest(_) => {
                let _ = engine.send(request); // gone only with the kernel
                continue;
            }
            Content::CompleteRequest(_) | Content::InspectRequest(_) if !is_busy => {
                let _ = engine.send(request);
                continue;
            }
            Content::CompleteRequest(complete) => links.memory().complete(&complete.code, complete.cursor_pos).into(),
            Content::InspectRequest(_) => InspectReply::default().into(),
            Content::KernelInfoRequest(_) => kernel_info().into(),
            Content::IsCompleteRequest(request) => is_complete(&request.code).into(),
            Content::HistoryRequest(request) => links.memory().history(request).into(),
            Content::CommInfoRequest(_) => CommInfoReply::default().into(),
            _ => continue,
        };
        // While a cell runs the kernel is busy, whatever else it answers.
        let tell = |status: Status| {
            if !is_busy {
                let _ = links.iopub.send(JupyterMessage::new(status, Some(&request)));
            }
        };
        tell(Status::busy());
        let _ = links.shell.send(JupyterMessage::new(content, Some(&request)));
        tell(Status::idle());
    }
}

/// Answers requests on the control socket, which does not wait for cells; returns at a shutdown.
async fn control_loop(mut socket: KernelControlConnection, links: Links) -> Result<()> {
    loop {
        let request = next(&mut socket).await;
        let content: Content = match &request.content {
            Content::InterruptRequest(_) => {
                let current = links.current.clone();
                tokio::task::spawn_blocking(move || current.interrupt()).await?;
                InterruptReply::new().into()
            }
            Content::ShutdownRequest(shutdown) => {
                let reply = ShutdownReply { restart: shutdown.restart, status: ReplyStatus::Ok, error: None };
                socket.send(JupyterMessage::new(reply.clone(), Some(&request))).await?;
                let _ = links.iopub.send(JupyterMessage::new(reply, Some(&request)));
                tokio::time::sleep(LAST_WORDS).await;
                return Ok(());
            }
            Content::KernelInfoRequest(_) => kernel_info().into(),
            Content::DebugRequest(_) => {
                let content = serde_json::json!({"success": false, "message": "this kernel has no debugger"});
                DebugReply { content }.into()
            }
            _ => continue,
        };
        socket.send(JupyterMessage::new(content, Some(&request))).await?;
    }
}

fn is_complete(code: &str) -> IsCompleteReply {
    match completeness(code) {
        Completeness::Complete => IsCompleteReply { status: IsCompleteReplyStatus::Complete, indent: String::new() },
        Completeness::Incomplete(open) => {
            IsCompleteReply { status: IsCompleteReplyStatus::Incomplete, indent: "    ".repeat(open) }
        }
        Completeness::Invalid => IsCompleteReply { status: IsCompleteReplyStatus::Invalid, indent: String::new() },
    }
}

fn kernel_info() -> KernelInfoReply {
    let link = |text: &str, url: &str| HelpLink { text: text.into(), url: url.into() };
    KernelInfoReply {
        status: ReplyStatus::Ok,
        protocol_version: "5.3".into(),
        implementation: "stemm_kernel".into(),
        implementation_version: env!("CARGO_PKG_VERSION").into(),
        language_info: LanguageInfo {
            name: "rust".into(),
            version: env!("STEMM_KERNEL_RUST").into(),
            mimetype: Some("text/x-rustsrc".into()),
            file_extension: Some(".rs".into()),
            pygments_lexer: Some("rust".into()),
            codemirror_mode: Some(CodeMirrorMode::Simple("rust".into())),
            nbconvert_exporter: None,
        },
        banner:
            "Rust (stemm): a Rust kernel on evcxr. `:help` lists its commands; `stemm` is there: use stemm::prelude::*;"
                .into(),
        help_links: vec![
            link("The Rust book", "https://doc.rust-lang.org/book/"),
            link("Rust's standard library", "https://doc.rust-lang.org/std/"),
            link("polars in Rust", "https://docs.rs/polars"),
            link("tch", "https://docs.rs/tch"),
        ],
        debugger: false,
        error: None,
    }
}
