//! Turns what the runtime writes into lines for evcxr, and records.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::records::{BEGIN, CHANGED, COMPLETE, END, ERROR, PANIC, Record, data};

/// Sorts bytes as they come. Its answers are lines for evcxr, to be written in order.
#[derive(Default)]
pub struct Sorter {
    /// A line of standard output without its end.
    line: Vec<u8>,
    /// A display's content that is being written, with its MIME type.
    content: Option<(String, Vec<String>)>,
    /// Contents of one display by MIME type: the cell's result, if nothing follows.
    display: Vec<(String, String)>,
    /// Standard error, which may turn out to be the text of the cell's failure.
    errors: Vec<u8>,
    /// When the first of it came.
    errors_since: Option<Instant>,
    /// How a cell's end is told.
    end: End,
}

/// After so long standard error is no failure's text: on a busy machine the mark behind it may take a while.
const HOLD: Duration = Duration::from_millis(200);

/// The end of a cell.
#[derive(Default, PartialEq)]
enum End {
    /// It is told at once.
    #[default]
    AtOnce,
    /// It is told when what the cell has begun to write has been handed on: that is asked for first.
    Flushed,
    /// That is to be asked for.
    Asking,
    /// That was asked for.
    Asked,
}

impl Sorter {
    /// For a runtime that can, or cannot, be asked to hand on what a cell has begun to write.
    pub fn new(can_flush: bool) -> Sorter {
        Sorter { end: if can_flush { End::Flushed } else { End::AtOnce }, ..Sorter::default() }
    }

    /// Whether the runtime is to be asked now.
    pub fn wants_flush(&mut self) -> bool {
        let wants = self.end == End::Asking;
        if wants {
            self.end = End::Asked;
        }
        wants
    }

    /// Whether something is unfinished that a pause would show.
    pub fn is_waiting(&self) -> bool {
        !self.line.is_empty() || !self.display.is_empty() || !self.errors.is_empty()
    }

    /// Bytes of standard error.
    pub fn errors(&mut self, bytes: &[u8]) -> Vec<String> {
        if bytes.is_empty() {
            return Vec::new();
        }
        self.errors.extend_from_slice(bytes);
        self.errors_since.get_or_insert_with(Instant::now);
        self.show()
    }

    /// Bytes of standard output; `rest` gives what was written to standard error meanwhile.
    pub fn output(&mut self, bytes: &[u8], rest: &mut dyn FnMut() -> Vec<u8>) -> Vec<String> {
        let mut lines = Vec::new();
        self.release_old(&mut lines);
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(piece);
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
                let line = text(&std::mem::take(&mut self.line));
                self.whole(&line, rest, &mut lines);
            }
        }
        lines
    }

    /// Nothing has come for a while.
    pub fn pause(&mut self) -> Vec<String> {
        // A cell that has ended shows the rest as its end.
        if self.content.is_some() || self.end == End::Asked {
            return Vec::new();
        }
        let mut lines = self.show();
        self.release_old(&mut lines);
        // Nothing of a mark in the middle of its way, and no half character.
        let whole = std::str::from_utf8(&self.line).map_or_else(|error| error.valid_up_to(), str::len);
        if whole > 0 && !self.line.starts_with(b"EVCXR_") && !Record::begins(&self.line) {
            let bytes: Vec<u8> = self.line.drain(..whole).collect();
            lines.push(Record::Stdout { text: text(&bytes) }.line());
        }
        lines
    }

    /// The runtime has ended.
    pub fn end(&mut self) -> Vec<String> {
        let mut lines = self.pause();
        self.release(&mut lines);
        lines
    }

    /// A whole line of standard output.
    fn whole(&mut self, line: &str, rest: &mut dyn FnMut() -> Vec<u8>, lines: &mut Vec<String>) {
        if let Some((mime, mut content)) = self.content.take() {
            if line == END {
                if self.display.iter().any(|(known, _)| *known == mime) {
                    lines.append(&mut self.show()); // a second display
                }
                self.display.push((mime, content.join("\n")));
                return;
            }
            if line != PANIC {
                content.push(line.to_owned());
                self.content = Some((mime, content));
                return;
            }
        }
        if let Some(at) = mark_behind_text(line) {
            lines.append(&mut self.show());
            lines.push(Record::Stdout { text: line[..at].to_owned() }.line());
            return self.whole(&line[at..], rest, lines);
        }
        if line == PANIC || line == ERROR {
            lines.append(&mut self.show());
            self.errors.append(&mut rest());
            self.errors_since = None;
            let text = text(&std::mem::take(&mut self.errors));
            let record = if line == PANIC { Record::Panic { text } } else { Record::Error { text } };
            lines.extend([record.line(), line.to_owned()]);
            return;
        }
        if line == COMPLETE && self.end == End::Flushed {
            self.end = End::Asking;
            return;
        }
        if line == COMPLETE {
            if self.end == End::Asked {
                self.end = End::Flushed;
            }
            let rest = rest();
            lines.append(&mut self.errors(&rest));
            self.release(lines);
        }
        if let Some(mime) = line.strip_prefix(BEGIN) {
            self.content = Some((mime.split(' ').next().unwrap_or_default().to_owned(), Vec::new()));
        } else if line == COMPLETE {
            for (mime, content) in self.display.drain(..) {
                lines.extend([format!("{BEGIN}{mime}"), content, END.to_owned()]);
            }
            lines.push(line.to_owned());
        } else {
            lines.append(&mut self.show());
            // Of the records only messages are a cell's to send.
            match Record::of(line) {
                Some(Record::Message { .. }) | None => lines.push(line.to_owned()),
                Some(_) => lines.push(Record::Stdout { text: format!("{line}\n") }.line()),
            }
        }
    }

    /// Standard error that has been held long enough. From a panic's words to its mark the values of the cell are dropped, which may
    /// take longer.
    fn release_old(&mut self, lines: &mut Vec<String>) {
        let is_old = self.errors_since.is_some_and(|since| since.elapsed() >= HOLD);
        if is_old && !text(&self.errors).contains("panicked at") {
            self.release(lines);
        }
    }

    /// Standard error, which has turned out to be no failure's text.
    fn release(&mut self, lines: &mut Vec<String>) {
        self.errors_since = None;
        if !self.errors.is_empty() {
            lines.push(Record::Stderr { text: text(&std::mem::take(&mut self.errors)) }.line());
        }
    }

    /// The display that is complete, now and not as the cell's result.
    fn show(&mut self) -> Vec<String> {
        if self.display.is_empty() {
            return Vec::new();
        }
        let data = data(std::mem::take(&mut self.display));
        let content = json!({"data": data, "metadata": {}, "transient": {}});
        vec![Record::Message { msg_type: "display_data".into(), content }.line()]
    }
}

/// Where a mark begins that follows an unfinished line.
fn mark_behind_text(line: &str) -> Option<usize> {
    let ends = [COMPLETE, PANIC, ERROR].into_iter().filter_map(|mark| line.strip_suffix(mark).map(str::len));
    let begins = [BEGIN, CHANGED].into_iter().filter_map(|mark| line.find(mark));
    let records = line.find("\u{1e}{");
    ends.chain(begins).chain(records).min().filter(|&at| at > 0)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What evcxr gets, with records in short, if so much is written and nothing follows for a while.
    fn sorted(output: &str, errors: &str) -> Vec<String> {
        let mut sorter = Sorter::default();
        let mut errors = Some(errors.as_bytes().to_vec());
        let mut lines = sorter.output(output.as_bytes(), &mut || errors.take().unwrap_or_default());
        lines.append(&mut sorter.pause());
        let short = |line: String| match Record::of(&line) {
            Some(Record::Message { msg_type, content }) => format!("<{msg_type} {}>", content["data"]),
            Some(record) => format!("<{record:?}>"),
            None => line,
        };
        lines.into_iter().map(short).collect()
    }

    fn display(mime: &str, content: &str) -> String {
        format!("{BEGIN}{mime}\n{content}\n{END}\n")
    }

    #[test]
    fn the_last_display_of_a_cell_is_its_result() {
        let output = format!("{}{}{COMPLETE}\n", display("text/html", "<b>\n</b>"), display("text/plain", "b"));
        let lines =
            ["EVCXR_BEGIN_CONTENT text/html", "<b>\n</b>", END, "EVCXR_BEGIN_CONTENT text/plain", "b", END, COMPLETE];
        assert_eq!(sorted(&output, ""), lines);
    }

    #[test]
    fn a_display_that_something_follows_is_shown_at_once() {
        let one = display("text/plain", "one");
        let shown = r#"<display_data {"text/plain":"one"}>"#;
        assert_eq!(sorted(&one, ""), [shown], "nothing follows for a while");
        assert_eq!(sorted(&format!("{one}words\n"), ""), [shown, "words"]);
        let two = format!("{one}{}{COMPLETE}\n", display("text/plain", "two"));
        assert_eq!(sorted(&two, ""), [shown, "EVCXR_BEGIN_CONTENT text/plain", "two", END, COMPLETE]);
    }

    #[test]
    fn an_unfinished_line_is_shown_and_hides_no_mark() {
        assert_eq!(sorted("half", ""), [r#"<Stdout { text: "half" }>"#]);
        assert_eq!(sorted(&format!("half{COMPLETE}\n"), ""), [r#"<Stdout { text: "half" }>"#, COMPLETE]);
        let result = format!("half{}{COMPLETE}\n", display("text/plain", "r"));
        let lines = [r#"<Stdout { text: "half" }>"#, "EVCXR_BEGIN_CONTENT text/plain", "r", END, COMPLETE];
        assert_eq!(sorted(&result, ""), lines);
    }

    #[test]
    fn half_a_character_or_half_a_mark_waits_for_its_end() {
        let mut sorter = Sorter::default();
        let nothing = &mut Vec::new;
        assert!(sorter.output(&"é".as_bytes()[..1], nothing).is_empty() && sorter.pause().is_empty());
        assert_eq!(sorter.output(&"é".as_bytes()[1..], nothing), Vec::<String>::new());
        assert_eq!(sorter.pause(), [Record::Stdout { text: "é".into() }.line()]);
        assert!(sorter.output(&PANIC.as_bytes()[..9], nothing).is_empty() && sorter.pause().is_empty());
        assert_eq!(sorter.output(format!("{}\n", &PANIC[9..]).as_bytes(), nothing).last().unwrap(), PANIC);
    }

    #[test]
    fn failures_are_told_with_what_was_said_on_standard_error() {
        assert_eq!(sorted(&format!("{PANIC}\n"), "why"), [r#"<Panic { text: "why" }>"#, PANIC]);
        assert_eq!(sorted(&format!("{ERROR}\n"), "why"), [r#"<Error { text: "why" }>"#, ERROR]);
        assert_eq!(sorted(&format!("{COMPLETE}\n"), "late"), [r#"<Stderr { text: "late" }>"#, COMPLETE]);
    }

    #[test]
    fn standard_error_before_a_failure_is_its_text_if_it_came_just_before() {
        let mut sorter = Sorter::default();
        let nothing = &mut Vec::new;
        assert!(sorter.errors(b"why").is_empty());
        assert_eq!(
            sorter.output(format!("{ERROR}\n").as_bytes(), nothing)[0],
            Record::Error { text: "why".into() }.line()
        );
        // Lines that are read after it may have been written before it.
        assert!(sorter.errors(b"why").is_empty());
        let lines = sorter.output(format!("on\n{ERROR}\n").as_bytes(), nothing);
        assert_eq!(lines[..2], ["on".to_owned(), Record::Error { text: "why".into() }.line()]);
        assert!(sorter.errors(b"a warning").is_empty() && sorter.pause().is_empty());
        std::thread::sleep(HOLD);
        assert_eq!(sorter.output(b"on\n", nothing), [Record::Stderr { text: "a warning".into() }.line(), "on".into()]);
        assert!(sorter.errors(b"thread panicked at here").is_empty() && sorter.pause().is_empty());
        let lines = sorter.output(format!("{COMPLETE}\n").as_bytes(), nothing);
        assert_eq!(lines[0], Record::Stderr { text: "thread panicked at here".into() }.line(), "in another thread");
    }

    #[test]
    fn a_cell_ends_when_what_it_has_begun_to_write_has_come() {
        let mut sorter = Sorter::new(true);
        let nothing = &mut Vec::new;
        for _ in 0..2 {
            assert!(sorter.output(format!("{COMPLETE}\n").as_bytes(), nothing).is_empty());
            assert!(sorter.wants_flush() && !sorter.wants_flush());
            let lines = sorter.output(format!("half{COMPLETE}\n").as_bytes(), nothing);
            assert_eq!(lines, [Record::Stdout { text: "half".into() }.line(), COMPLETE.into()]);
        }
    }

    #[test]
    fn a_result_stays_the_result_however_long_its_end_takes() {
        let mut sorter = Sorter::new(true);
        let nothing = &mut Vec::new;
        let result = format!("{}{COMPLETE}\n", display("text/plain", "r"));
        assert!(sorter.output(result.as_bytes(), nothing).is_empty() && sorter.wants_flush());
        assert!(sorter.pause().is_empty());
        let lines = sorter.output(format!("{COMPLETE}\n").as_bytes(), nothing);
        assert_eq!(lines, ["EVCXR_BEGIN_CONTENT text/plain", "r", END, COMPLETE]);
    }

    #[test]
    fn a_panic_in_the_middle_of_a_display_is_a_panic() {
        assert_eq!(sorted(&format!("{BEGIN}text/plain\nhalf\n{PANIC}\n"), "")[1], PANIC);
    }

    #[test]
    fn a_cell_cannot_send_the_records_of_the_kernel() {
        let forged = Record::Died { signal: Some(9), code: None }.line();
        assert!(sorted(&format!("{forged}\n"), "")[0].starts_with("<Stdout"));
        let message = Record::Message { msg_type: "clear_output".into(), content: json!({"wait": true}) }.line();
        assert_eq!(sorted(&format!("text{message}\n"), ""), [r#"<Stdout { text: "text" }>"#, "<clear_output null>"]);
    }
}
