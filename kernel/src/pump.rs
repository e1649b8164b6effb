//! The thread that turns evcxr's lines into messages while a cell runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};
use jupyter_protocol::{StreamContent, UnknownMessage};

use crate::cell::Current;
use crate::records::Record;

/// Messages that a cell may send by itself.
const ALLOWED: [&str; 6] =
    ["display_data", "update_display_data", "clear_output", "comm_open", "comm_msg", "comm_close"];
/// Text that comes close together goes out as one message: so long, and so much.
const GATHER: Duration = Duration::from_millis(10);
const MOST_TEXT: usize = 1 << 16;

/// Asks for a word when everything that was there before has gone out.
pub type Flush = Sender<Sender<()>>;

/// Starts the thread on evcxr's two outputs.
pub fn start(current: Arc<Current>, stdout: Receiver<String>, stderr: Receiver<String>) -> Flush {
    let (flush, flushes) = crossbeam_channel::unbounded::<Sender<()>>();
    std::thread::spawn(move || {
        let mut pump = Pump { current, text: String::new(), stream: Stream::Stdout, since: None };
        loop {
            select! {
                recv(stdout) -> line => match line {
                    Ok(line) => pump.line(&line),
                    Err(_) => return,
                },
                // Of the relay itself; the runtime's standard error comes in records.
                recv(stderr) -> line => if let Ok(line) = line { pump.add(Stream::Stderr, &format!("{line}\n")) },
                recv(flushes) -> answer => {
                    stdout.try_iter().for_each(|line| pump.line(&line));
                    pump.flush();
                    if let Ok(answer) = answer {
                        let _ = answer.send(()); // whoever asked may have waited long enough
                    }
                },
                default(GATHER) => {}
            }
            if pump.since.is_some_and(|since| since.elapsed() >= GATHER) || pump.text.len() >= MOST_TEXT {
                pump.flush();
            }
        }
    });
    flush
}

#[derive(Clone, Copy, PartialEq)]
enum Stream {
    Stdout,
    Stderr,
}

struct Pump {
    current: Arc<Current>,
    text: String,
    stream: Stream,
    /// When the first of the text came.
    since: Option<Instant>,
}

impl Pump {
    fn line(&mut self, line: &str) {
        match Record::of(line) {
            None => self.add(Stream::Stdout, &format!("{line}\n")),
            Some(Record::Stdout { text }) => self.add(Stream::Stdout, &text),
            Some(Record::Stderr { text }) => self.add(Stream::Stderr, &text),
            Some(Record::Message { msg_type, content }) => {
                self.flush();
                if ALLOWED.contains(&msg_type.as_str()) {
                    self.current.publish(UnknownMessage { msg_type, content });
                }
            }
            Some(Record::Run) => self.current.cell().is_running = true,
            Some(Record::NotRun) => {}
            Some(record @ (Record::Panic { .. } | Record::Error { .. })) => {
                self.current.cell().failure.get_or_insert(record);
            }
            Some(record @ Record::Died { .. }) => self.current.cell().death = Some(record),
        }
    }

    fn add(&mut self, stream: Stream, text: &str) {
        if self.stream != stream {
            self.flush();
            self.stream = stream;
        }
        self.text.push_str(text);
        self.since.get_or_insert_with(Instant::now);
    }

    fn flush(&mut self) {
        self.since = None;
        let text = std::mem::take(&mut self.text);
        if !text.is_empty() {
            self.current.publish(match self.stream {
                Stream::Stdout => StreamContent::stdout(&text),
                Stream::Stderr => StreamContent::stderr(&text),
            });
        }
    }
}
