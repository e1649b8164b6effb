//! What went wrong in a cell, in the words and lines of the cell: evcxr calls a panic and an early `?` a success.

use std::collections::HashMap;

use evcxr::{CompilationError, Error, EvalOutputs};
use jupyter_protocol::ErrorOutput;

use crate::cell::Cell;
use crate::code::{lines_with_question_mark, show_line};
use crate::display::Displaying;
use crate::records::Record;

/// All variables are gone.
const LOST: &str = "all variables are lost; imports, functions and types are kept";
/// Nothing has happened.
const NOT_RUN: &str = "interrupted before it ran; all variables are as they were";

/// The code that failed, and what is known around it.
pub struct Place<'a> {
    pub code: &'a str,
    /// The form in which it was compiled, if that is another.
    pub displaying: Option<&'a Displaying>,
    /// Variables that ended with their process, and the number of the cell in which it ended.
    pub lost: &'a HashMap<String, usize>,
}

/// The failure of an execution, if it failed. `generated` gives the file that evcxr last compiled.
pub fn failure(
    cell: &Cell,
    result: &Result<EvalOutputs, Error>,
    place: &Place,
    generated: impl FnOnce() -> String,
) -> Option<ErrorOutput> {
    let code = place.code;
    let interrupted = cell.is_interrupted();
    let named = |name: &str| if interrupted { "Interrupted" } else { name }.to_owned();
    let simple = |name: String, text: String| {
        let traceback = vec![format!("{}: {text}", strong(&name))];
        Some(ErrorOutput { ename: name, evalue: text, traceback })
    };
    match (result, &cell.failure) {
        (Err(Error::SubprocessTerminated(said)), _) => {
            let what = match (interrupted, &cell.death) {
                (true, _) => "interrupted twice, so its process was ended".to_owned(),
                (_, Some(Record::Died { signal: Some(9), .. })) => {
                    "its process was killed from outside, probably because memory ran out".to_owned()
                }
                (_, Some(Record::Died { signal: Some(signal), .. })) => {
                    format!("its process crashed (signal {signal})")
                }
                (_, Some(Record::Died { code: Some(code), .. })) => format!("its process ended (exit code {code})"),
                _ => said.lines().filter(|line| Record::of(line).is_none()).collect::<Vec<_>>().join("\n"),
            };
            simple(named("Crash"), format!("{what}; {LOST}"))
        }
        // Ended compilers are reported as failed compilations.
        _ if interrupted && !cell.is_running => simple(named("Interrupted"), NOT_RUN.to_owned()),
        (Err(Error::CompilationErrors(errors)), _) => {
            let first = errors.first().map_or_else(String::new, CompilationError::message);
            let traceback = errors.iter().map(|error| explained(error, place) + &loss(error, place.lost)).collect();
            Some(ErrorOutput { ename: "CompilationError".into(), evalue: first, traceback })
        }
        (Err(other), _) => simple("Error".into(), other.to_string()),
        (Ok(_), Some(Record::Panic { text })) => simple(named("Panic"), panic_text(text, code, &generated())),
        (Ok(_), Some(Record::Error { text })) => {
            let text = text.trim_end();
            simple(
                named("Error"),
                match lines_with_question_mark(code)[..] {
                    [line] if !interrupted => format!("{text}\n{}", show_line(code, line)),
                    _ => text.to_owned(),
                },
            )
        }
        (Ok(_), _) => None,
    }
}

/// The failure of code whose brackets do not match.
pub fn of_brackets() -> ErrorOutput {
    let text = "a bracket is closed that was not opened, or by one of another kind";
    ErrorOutput {
        ename: "CompilationError".into(),
        evalue: text.into(),
        traceback: vec![format!("{}: {text}", strong("error"))],
    }
}

/// The message of a panic, with its line in the cell in place of that in the generated file.
fn panic_text(text: &str, code: &str, generated: &str) -> String {
    let text = text.trim();
    // "thread 'main' (7) panicked at src/lib.rs:12:5:\nmessage\nnote: run with ..."; before it stands what else was written.
    let Some((before, after)) = text.rsplit_once("panicked at ") else { return text.to_owned() };
    let before = before.rsplit_once('\n').map_or("", |(before, _)| before).trim();
    let (place, message) = after.split_once(":\n").unwrap_or(("", after));
    let message = message.split("\nnote: ").next().unwrap_or(message).trim();
    let mut parts = place.rsplitn(3, ':').skip(1);
    let number = parts.next().and_then(|line| line.parse::<usize>().ok());
    let is_in_cell = parts.next().is_some_and(|file| file.ends_with("src/lib.rs") && !file.contains(".cargo"));
    let line = number.filter(|_| is_in_cell).and_then(|number| line_of_cell(number, code, generated));
    let place = line.map_or_else(|| format!("  at {place}"), |line| show_line(code, line));
    let parts = [before, message, &place];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Where in the cell a line of the generated file comes from. evcxr keeps lines whole, but may put something around them.
fn line_of_cell(number: usize, code: &str, generated: &str) -> Option<usize> {
    let compiled: Vec<&str> = generated.lines().collect();
    let line = compiled.get(number.checked_sub(1)?)?.trim();
    let is_it = |own: &&str| !own.trim().is_empty() && line.contains(own.trim());
    let places: Vec<usize> = code.lines().enumerate().filter(|(_, own)| is_it(own)).map(|(place, _)| place).collect();
    // Of equal lines of the cell the one that stands as far behind the first of them as in the file.
    let equal_before = compiled[..number - 1].iter().filter(|other| other.trim() == line).count();
    places.get(equal_before).or(places.last()).copied()
}

/// An error of the compiler as rustc says it, with the lines of the cell.
fn explained(error: &CompilationError, place: &Place) -> String {
    let number = error.code().map_or_else(String::new, |number| format!("[{number}]"));
    let mut text = format!("{}: {}", strong(&format!("error{number}")), error.message());
    for part in error.spanned_messages() {
        let Some(span) = &part.span else { continue };
        let line = place.code.lines().nth(span.start_line.saturating_sub(1)).unwrap_or("");
        let column = |line, column| place.displaying.map_or(column, |displaying| displaying.column(line, column));
        let start = column(span.start_line, span.start_column).saturating_sub(1);
        let end = match span.end_line == span.start_line {
            true => column(span.end_line, span.end_column).saturating_sub(1),
            false => line.chars().count(),
        };
        let (indent, width) = (" ".repeat(start), end.saturating_sub(start).max(1));
        let marks = strong(&"^".repeat(width));
        text += &format!("\n{:>4} | {line}\n     | {indent}{marks} {}", span.start_line, part.label);
    }
    for help in error.help() {
        text += &format!("\n     = help: {help}");
    }
    text + &error.evcxr_extra_hint().map_or_else(String::new, |hint| format!("\n     = note: {hint}"))
}

/// Why a name is not found that an earlier cell has given.
fn loss(error: &CompilationError, lost: &HashMap<String, usize>) -> String {
    let message = error.message();
    let name = message.strip_prefix("cannot find value `").and_then(|rest| rest.split('`').next()).unwrap_or_default();
    lost.get(name).map_or_else(String::new, |cell| {
        format!(
            "\n     = note: `{name}` was lost when its process ended in cell [{cell}]; run the cell that makes it again"
        )
    })
}

/// Bold: red, on the reddish ground that errors have, is hard to read in dark themes.
fn strong(text: &str) -> String {
    format!("\u{1b}[1m{text}\u{1b}[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(place: &str) -> String {
        format!("thread 'main' (7) panicked at {place}:\nindex out of bounds\nnote: run with `RUST_BACKTRACE=1`\n")
    }

    #[test]
    fn a_panic_names_the_line_of_the_cell() {
        let code = "let v = vec![1];\nlet i = 3;\nlet x = v[i];";
        let generated = "fn run() {\nlet v = vec![1];\nlet i = 3;\nlet x = v[i];\n}";
        let text = panic_text(&said("src/lib.rs:4:9"), code, generated);
        assert_eq!(text, "index out of bounds\n  in line 3 of this cell: let x = v[i];");
        let text = panic_text(&format!("a warning\n{}", said("src/lib.rs:4:9")), code, generated);
        assert!(text.starts_with("a warning\nindex out of bounds"), "{text}");
    }

    #[test]
    fn a_panic_in_the_last_expression_or_among_equal_lines_is_found() {
        let code = "f(0);\nf(0);\nf(0)";
        let generated = "f(0);\nf(0);\n(f(0)).evcxr_display();";
        assert!(panic_text(&said("src/lib.rs:2:1"), code, generated).contains("line 2 of"));
        assert!(panic_text(&said("src/lib.rs:3:1"), code, generated).contains("line 3 of"));
    }

    #[test]
    fn a_panic_elsewhere_names_its_place() {
        let text = panic_text(&said("/root/.cargo/registry/polars/src/lib.rs:4:9"), "d", "a\nb\nc\nd");
        assert!(text.ends_with("at /root/.cargo/registry/polars/src/lib.rs:4:9"), "{text}");
        assert_eq!(panic_text("no words of that kind", "a", "a"), "no words of that kind");
    }
}
