//! Shows the value of a cell's last expression also where the expression moves a variable.
//!
//! evcxr calls `evcxr_display` on the expression, and takes the error of a moved variable for a type without that method: the
//! value then shows as its debug text. So the expression is put into a statement that shows it, which evcxr runs as it is.

use evcxr::{Error, EvalOutputs};
use ra_ap_syntax::ast::{HasModuleItem, Item};
use ra_ap_syntax::{AstNode, Edition, SourceFile, TextSize};

use crate::code::{is_command, split_commands};

const BEFORE: &str = "{ let evcxr_shown = &(";
const AFTER: &str = "); evcxr_shown.evcxr_display(); };";
const WRAPPER: &str = "fn cell() {\n";

/// A cell with its last expression in a statement.
#[derive(Debug, PartialEq)]
pub struct Displaying {
    pub code: String,
    /// The line, counted from 1, on which columns are moved, the column from which, and by how much.
    moved: (usize, usize, usize),
}

impl Displaying {
    /// The cell's code in that form, if it ends with an expression whose value is shown.
    pub fn new(code: &str) -> Option<Displaying> {
        // Commands of evcxr are no Rust; and a cell that is compiled twice would obey them twice.
        if split_commands(code).0.lines().any(is_command) {
            return None;
        }
        let parsed = SourceFile::parse(&format!("{WRAPPER}{code}\n}}"), Edition::CURRENT);
        if !parsed.errors().is_empty() {
            return None;
        }
        let Some(Item::Fn(cell)) = parsed.tree().items().next() else { return None };
        let range = cell.body()?.tail_expr()?.syntax().text_range() - TextSize::of(WRAPPER);
        let (start, end) = (usize::from(range.start()), usize::from(range.end()));
        let (before, expression, after) = (&code[..start], &code[start..end], &code[end..]);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or(before).chars().count() + 1;
        let code = format!("{before}{BEFORE}{expression}{AFTER}{after}");
        Some(Displaying { code, moved: (line, column, BEFORE.len()) })
    }

    /// The column in the cell as it was written.
    pub fn column(&self, line: usize, column: usize) -> usize {
        let (moved_line, from, by) = self.moved;
        if line == moved_line && column >= from { column.saturating_sub(by).max(from) } else { column }
    }
}

/// Whether a cell failed for the statement, and not for its own code.
pub fn is_about_display(result: &Result<EvalOutputs, Error>) -> bool {
    matches!(result, Err(Error::CompilationErrors(errors)) if errors.iter().any(|error| error.message().contains("evcxr_")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(cell: &str) -> Option<String> {
        Displaying::new(cell).map(|displaying| displaying.code)
    }

    #[test]
    fn the_last_expression_becomes_a_statement_and_lines_stay() {
        assert_eq!(code("let a = 1;\na.beside(b)?").unwrap(), format!("let a = 1;\n{BEFORE}a.beside(b)?{AFTER}"));
        assert_eq!(code("a // the end").unwrap(), format!("{BEFORE}a{AFTER} // the end"));
        assert_eq!(code("a\n    .b()\n    .c()").unwrap(), format!("{BEFORE}a\n    .b()\n    .c(){AFTER}"));
    }

    #[test]
    fn what_shows_nothing_stays() {
        for cell in [
            "let a = 1;",
            "a;",
            "fn f() {}",
            "use a::b;",
            "",
            "struct S;",
            "let a = ",
            "}",
            ":vars",
            ":dep x = \"1\"\na",
            "!ls\n(1)", // as Rust it would be a call
        ] {
            assert_eq!(code(cell), None, "{cell}");
        }
    }

    #[test]
    fn columns_are_those_of_the_cell() {
        let displaying = Displaying::new("let a = 1;\n  a.nothing()").unwrap();
        let found = displaying.code.lines().nth(1).unwrap().find("nothing").unwrap() + 1;
        assert_eq!(displaying.column(2, found), 5);
        assert_eq!((displaying.column(1, 9), displaying.column(2, 2)), (9, 2));
    }
}
