//! Positions, lines and tokens in the code of a cell.

use ra_ap_parser::{Edition, LexedStr, T};

/// Whether a front end that sends code by the return key should send it.
#[derive(Debug, PartialEq)]
pub enum Completeness {
    Complete,
    /// A bracket, a text or a comment is open; so many brackets.
    Incomplete(usize),
    /// A bracket is closed that was not open.
    Invalid,
}

/// The code in two: evcxr's commands, with comments and empty lines among them, and the Rust behind them.
pub fn split_commands(code: &str) -> (&str, &str) {
    let is_before = |line: &&str| is_command(line) || line.starts_with("//") || line.trim().is_empty();
    code.split_at(code.split_inclusive('\n').take_while(is_before).map(str::len).sum())
}

/// Whether evcxr takes a line before the Rust for a command of its own or of the shell.
pub fn is_command(line: &str) -> bool {
    line.starts_with('!') || line.trim_start_matches(' ').starts_with(':')
}

/// Judges the end of the code.
pub fn completeness(code: &str) -> Completeness {
    let tokens = LexedStr::new(Edition::CURRENT, code);
    let mut open = Vec::new();
    for index in 0..tokens.len() {
        // A text or a comment that goes on to the end of the code.
        if tokens.error(index).is_some() && tokens.text_range(index).end == code.len() {
            return Completeness::Incomplete(open.len());
        }
        match tokens.kind(index) {
            T!['('] => open.push(T![')']),
            T!['['] => open.push(T![']']),
            T!['{'] => open.push(T!['}']),
            closing @ (T![')'] | T![']'] | T!['}']) if open.pop() != Some(closing) => return Completeness::Invalid,
            _ => {}
        }
    }
    let last = (0..tokens.len()).rev().map(|index| tokens.kind(index)).find(|kind| !kind.is_trivia());
    match (open.len(), last) {
        (0, Some(T![=] | T![.] | T![,] | T![+] | T![-] | T![*] | T![/] | T![&&] | T![||])) => {
            Completeness::Incomplete(1)
        }
        (0, _) => Completeness::Complete,
        (open, _) => Completeness::Incomplete(open),
    }
}

/// The lines, counted from 0, that hold a `?` outside texts and comments.
pub fn lines_with_question_mark(code: &str) -> Vec<usize> {
    let tokens = LexedStr::new(Edition::CURRENT, code);
    let marks = (0..tokens.len()).filter(|&index| tokens.kind(index) == T![?]);
    let mut lines: Vec<usize> = marks.map(|index| code[..tokens.text_start(index)].matches('\n').count()).collect();
    lines.dedup();
    lines
}

/// A line of the cell, counted from 0, as failures name it.
pub fn show_line(code: &str, line: usize) -> String {
    let text = code.lines().nth(line).unwrap_or_default().trim();
    match code.trim().lines().count() {
        1 => format!("  in: {text}"),
        _ => format!("  in line {} of this cell: {text}", line + 1),
    }
}

/// Where a character is, in bytes. Jupyter counts characters.
pub fn byte_offset(code: &str, characters: usize) -> usize {
    code.char_indices().nth(characters).map_or(code.len(), |(offset, _)| offset)
}

/// Characters before a byte.
pub fn character_offset(code: &str, byte: usize) -> usize {
    code.char_indices().take_while(|&(offset, _)| offset < byte).count()
}

/// The end of what the reader asks about: the word at the cursor, or the call whose arguments it is in. A call's parenthesis is
/// taken along, for without it evcxr finds no methods.
pub fn end_of_subject(code: &str, cursor: usize) -> usize {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    let forward = cursor + code[cursor..].find(|character| !is_word(character)).unwrap_or(code.len() - cursor);
    let mut end = forward;
    if !code[..forward].ends_with(is_word) {
        let mut depth = 0;
        for (place, character) in code[..cursor].char_indices().rev() {
            match character {
                ')' => depth += 1,
                '(' if depth == 0 => {
                    end = place;
                    break;
                }
                '(' => depth -= 1,
                _ => {}
            }
        }
    }
    end + usize::from(code[end..].starts_with('('))
}

/// The beginning of the word that ends at the cursor.
pub fn word_before(code: &str, cursor: usize) -> &str {
    let before = &code[..cursor];
    let start = before.rfind(|character: char| !character.is_alphanumeric() && character != '_');
    &before[start.map_or(0, |start| start + before[start..].chars().next().map_or(0, char::len_utf8))..]
}

/// The code without its lines that hold this command of evcxr, and whether there were any. Other lines keep their numbers.
pub fn without_command(code: &str, command: &str) -> (String, bool) {
    let is_command = |line: &str| line.trim() == command;
    let kept = code.lines().map(|line| if is_command(line) { "" } else { line }).collect::<Vec<_>>().join("\n");
    (kept, code.lines().any(is_command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_complete_when_everything_is_closed() {
        for code in ["", "1 + 1", "let a = '[';", "// {", "let s = \"(\";", "fn f<'a>(x: &'a str) {}", ":dep a = \"1\""]
        {
            assert_eq!(completeness(code), Completeness::Complete, "{code}");
        }
        for code in ["fn f() {", "let s = \"a", "/* ", "f(\n1,", "let s = r#\"a\"", "let a =", "frame\n.lazy()."] {
            assert!(matches!(completeness(code), Completeness::Incomplete(_)), "{code}");
        }
        assert_eq!(completeness("fn f() { [ (1"), Completeness::Incomplete(3));
        for code in ["}", "f(]", "f())"] {
            assert_eq!(completeness(code), Completeness::Invalid, "{code}");
        }
    }

    #[test]
    fn commands_stand_before_the_rust() {
        let commands = "// a cell\n!echo :)\n\n  :dep a = \"1\"\n";
        let rust = "let f = Vec\n    ::new();\n!true";
        assert_eq!(split_commands(&format!("{commands}{rust}")), (commands, rust));
        assert_eq!((split_commands(""), split_commands("1")), (("", ""), ("", "1")));
    }

    #[test]
    fn question_marks_count_where_they_are_operators() {
        assert_eq!(lines_with_question_mark("f()?;\n\"a?\"; // ?\ng()?.h()?"), [0, 2]);
    }

    #[test]
    fn positions_count_characters() {
        let code = "let é = π;";
        assert_eq!((byte_offset(code, 5), character_offset(code, 6)), (6, 5));
        assert_eq!((byte_offset(code, 99), character_offset(code, 99)), (code.len(), 10));
        assert_eq!((word_before("a.bé", 5), word_before("a. ", 3), word_before("π_x", 4)), ("bé", "", "π_x"));
    }

    #[test]
    fn the_subject_is_the_word_or_the_call_around_the_cursor() {
        let code = "trainer.train(&network, f(1), )";
        for cursor in [8, 10, 13, 30] {
            assert_eq!(&code[..end_of_subject(code, cursor)], "trainer.train(", "{cursor}");
        }
        assert_eq!(&code[..end_of_subject(code, 17)], "trainer.train(&network");
    }

    #[test]
    fn a_command_is_taken_out_and_lines_keep_their_numbers() {
        assert_eq!(without_command("a\n :restart \nb", ":restart"), ("a\n\nb".to_owned(), true));
        assert_eq!(without_command("\":restart\"", ":restart").1, false);
    }
}
