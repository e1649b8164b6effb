//! What the kernel can tell without evcxr, also while a cell runs: the names of variables and items, and the cells of before.

use jupyter_protocol::{CompleteReply, HistoryEntry, HistoryReply, HistoryRequest};

use crate::code::{byte_offset, word_before};

/// The session that front ends know: there is no other.
const SESSION: usize = 1;

/// Names and cells.
#[derive(Default)]
pub struct Memory {
    /// Variables and items after the last cell.
    pub names: Vec<String>,
    /// Code and text of the result, by execution count.
    cells: Vec<(usize, String, String)>,
}

impl Memory {
    /// Notes a cell that is to be stored.
    pub fn add_cell(&mut self, count: usize, code: &str, result: &str) {
        self.cells.push((count, code.to_owned(), result.to_owned()));
    }

    /// Names that begin with the word at the cursor.
    pub fn complete(&self, code: &str, cursor: usize) -> CompleteReply {
        let word = word_before(code, byte_offset(code, cursor));
        let matches = match word {
            "" => Vec::new(),
            word => self.names.iter().filter(|name| name.starts_with(word)).cloned().collect(),
        };
        let cursor_start = cursor.saturating_sub(word.chars().count());
        CompleteReply { matches, cursor_start, cursor_end: cursor, ..CompleteReply::default() }
    }

    /// The cells that a front end asks for.
    pub fn history(&self, request: &HistoryRequest) -> HistoryReply {
        let last = |n: i32, cells: Vec<_>| {
            let skipped = cells.len().saturating_sub(usize::try_from(n).unwrap_or(0));
            cells.into_iter().skip(skipped).collect::<Vec<&(usize, String, String)>>()
        };
        let (cells, with_output) = match request {
            HistoryRequest::Tail { n, output, .. } => (last(*n, self.cells.iter().collect()), *output),
            HistoryRequest::Range { session, start, stop, output, .. } => {
                let is_this = session.is_none_or(|session| session == 0 || session as usize == SESSION);
                let range = (*start).max(0) as usize
                    ..usize::try_from(*stop).ok().filter(|&stop| stop > 0).unwrap_or(usize::MAX);
                (self.cells.iter().filter(|cell| is_this && range.contains(&cell.0)).collect(), *output)
            }
            HistoryRequest::Search { pattern, unique, output, n, .. } => {
                let mut found: Vec<_> = self.cells.iter().filter(|cell| matches(pattern, &cell.1)).collect();
                if *unique {
                    // The last of equal ones.
                    let mut seen = std::collections::HashSet::new();
                    found.reverse();
                    found.retain(|cell| seen.insert(&cell.1));
                    found.reverse();
                }
                (last(*n, found), *output)
            }
        };
        let entry = |(count, code, result): &(usize, String, String)| match with_output {
            true => HistoryEntry::InputOutput(SESSION, *count, (code.clone(), result.clone())),
            false => HistoryEntry::Input(SESSION, *count, code.clone()),
        };
        HistoryReply::new(cells.into_iter().map(entry).collect())
    }
}

/// Whether a text matches a pattern with `*` for any text and `?` for any character, as in the shell.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = &pattern[1..];
            rest.is_empty() || text.char_indices().any(|(at, _)| matches(rest, &text[at..])) || matches(rest, "")
        }
        Some(first) => {
            let rest = &pattern[first.len_utf8()..];
            text.chars()
                .next()
                .is_some_and(|own| (first == '?' || first == own) && matches(rest, &text[own.len_utf8()..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        let mut memory =
            Memory { names: vec!["kept".into(), "keep_going".into(), "other".into()], ..Memory::default() };
        for (count, code) in ["let a = 1;", "a", "let b = 2;", "a"].into_iter().enumerate() {
            memory.add_cell(count + 1, code, "result");
        }
        memory
    }

    fn codes(request: &HistoryRequest) -> Vec<String> {
        let entries = memory().history(request).history.into_iter();
        entries
            .map(|entry| match entry {
                HistoryEntry::Input(_, count, code) => format!("{count} {code}"),
                HistoryEntry::InputOutput(_, count, (code, result)) => format!("{count} {code} {result}"),
            })
            .collect()
    }

    #[test]
    fn names_complete_the_word_at_the_cursor() {
        let reply = memory().complete("f(ke", 4);
        assert_eq!(
            (reply.matches, reply.cursor_start, reply.cursor_end),
            (vec!["kept".into(), "keep_going".into()], 2, 4)
        );
        assert!(memory().complete("f(", 2).matches.is_empty());
    }

    #[test]
    fn history_gives_the_tail_a_range_or_what_matches() {
        let (output, raw) = (false, true);
        assert_eq!(codes(&HistoryRequest::Tail { n: 2, output, raw }), ["3 let b = 2;", "4 a"]);
        let range = HistoryRequest::Range { session: Some(0), start: 1, stop: 3, output: true, raw };
        assert_eq!(codes(&range), ["1 let a = 1; result", "2 a result"]);
        let search =
            |pattern: &str, unique, n| HistoryRequest::Search { pattern: pattern.into(), unique, output, raw, n };
        assert_eq!(codes(&search("let*", false, 1)), ["3 let b = 2;"]);
        assert_eq!(codes(&search("?", true, 9)), ["4 a"]);
        assert_eq!(codes(&search("*", false, 9)).len(), 4);
    }
}
