//! How results show themselves in a notebook: HTML and plain text for tables, SVG, PNG and plain text for charts.

use std::fmt::{self, Debug, Write};

use polars::prelude::{AnyValue, DataFrame, DataType};

/// Rows shown of a long table, at its head and at its tail.
const SHOWN_ROWS: usize = 12;
/// Columns shown of a wide table, at its left and at its right.
const SHOWN_COLUMNS: usize = 24;
/// Characters shown of a value, of a frame as text, of a remark or title, of a cell and of a column's name.
const SHOWN_VALUE: usize = 1500;
const SHOWN_FRAME: usize = 12_000;
const SHOWN_REMARK: usize = 500;
const SHOWN_CELL: usize = 120;
const SHOWN_NAME: usize = 60;
/// Characters that are counted of a long text; after so many nobody needs to know how many more there are.
const COUNTED: usize = 10_000_000;

/// Sends one result to the notebook, as a bundle of `(mime type, content)`; the front end picks the best it can show.
pub(crate) fn show(bundle: &[(&str, String)]) {
    let mut text = String::new();
    for (mime, content) in bundle {
        // Writing to a string cannot fail.
        let _ = write!(text, "EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT\n");
    }
    // One write, so that other threads' lines cannot come between.
    print!("{text}");
}

/// Shows the value of a cell's last expression: frames as HTML tables, everything else as its debug text, `()` not at all.
/// What is long is cut, with a count of what is not shown.
///
/// Types with an `evcxr_display` of their own, such as charts, are shown by that. The kernel would find the debug text
/// without this trait as well, but only by compiling the cell a second time.
pub trait NotebookDisplay {
    /// Shows the value in the notebook.
    fn evcxr_display(&self);
}

impl<T: Debug + ?Sized> NotebookDisplay for T {
    fn evcxr_display(&self) {
        match as_frame(self) {
            Some(frame) => show_frame(frame, ""),
            None if typeid::of::<T>() == typeid::of::<()>() => (), // what loops and statements end with
            None => show(&[("text/plain", beginning(format_args!("{self:?}"), SHOWN_VALUE))]),
        }
    }
}

/// The value, if it is a frame.
fn as_frame<T: ?Sized>(value: &T) -> Option<&DataFrame> {
    // SAFETY: the types are the same, and `DataFrame` has no lifetimes that could differ. (`Any` would refuse values that
    // borrow from others, such as `Option<&str>`.)
    (typeid::of::<T>() == typeid::of::<DataFrame>()).then(|| unsafe { &*std::ptr::from_ref(value).cast() })
}

/// Shows a frame with a remark above its shape.
pub(crate) fn show_frame(frame: &DataFrame, remark: &str) {
    let mut text = beginning(format_args!("{frame}"), SHOWN_FRAME);
    if !remark.is_empty() {
        text = format!("{}\n{text}", beginning(format_args!("{remark}"), SHOWN_REMARK));
    }
    show(&[("text/html", html_table(frame, remark)), ("text/plain", text)]);
}

/// A title of a chart among others, as text.
pub(crate) fn title(title: &str) -> String {
    beginning(format_args!("{title}"), SHOWN_REMARK)
}

/// A frame as an HTML table: rounded, with its shape, cut in the middle if it is long or wide.
pub(crate) fn html_table(frame: &DataFrame, remark: &str) -> String {
    let (height, width) = frame.shape();
    let (rows, columns) = (ends(height, SHOWN_ROWS), ends(width, SHOWN_COLUMNS));
    let row = |tag: &str, cell: &dyn Fn(usize) -> String| {
        let cells = columns.iter().map(|column| match column {
            Some(column) => {
                let align = if is_number(frame.columns()[*column].dtype()) { "right" } else { "left" };
                format!("<{tag} style=\"text-align:{align}\">{}</{tag}>", escape(&cell(*column)))
            }
            None => format!("<{tag} style=\"text-align:center\">&#8943;</{tag}>"),
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let name = |column: usize| beginning(format_args!("{}", frame.columns()[column].name()), SHOWN_NAME);
    let mut html = format!("<table><thead>{}</thead><tbody>", row("th", &name));
    for shown in rows {
        html += &match shown {
            Some(index) => {
                row("td", &|column| frame.columns()[column].get(index).map_or(String::new(), |value| cell(&value)))
            }
            None => {
                format!("<tr>{}</tr>", "<td style=\"text-align:center\">&#8942;</td>".repeat(columns.len()))
            }
        };
    }
    html += "</tbody></table>";
    let remark = beginning(format_args!("{remark}"), SHOWN_REMARK);
    let remark = if remark.is_empty() { remark } else { format!("{} &#183; ", escape(&remark)) };
    html + &format!("<p>{remark}{height} rows &#215; {width} columns</p>")
}

/// The positions shown of so many, with nothing in the middle for those that are not.
fn ends(count: usize, most: usize) -> Vec<Option<usize>> {
    match count > most {
        true => (0..most / 2).map(Some).chain([None]).chain((count - most / 2..count).map(Some)).collect(),
        false => (0..count).map(Some).collect(),
    }
}

fn is_number(kind: &DataType) -> bool {
    kind.is_primitive_numeric()
}

/// A value as a person reads it: four significant digits for fractions.
fn cell(value: &AnyValue) -> String {
    match value {
        AnyValue::Null => "–".to_owned(),
        AnyValue::Float64(x) => number(*x),
        AnyValue::Float32(x) => number(f64::from(*x)),
        AnyValue::String(text) => beginning(format_args!("{text}"), SHOWN_CELL),
        AnyValue::StringOwned(text) => beginning(format_args!("{text}"), SHOWN_CELL),
        other => beginning(format_args!("{other}"), SHOWN_CELL),
    }
}

/// The beginning of a text, and how much more there is: entries of a list, characters of anything else. The whole text is
/// never in memory.
fn beginning(text: fmt::Arguments, most: usize) -> String {
    let mut beginning = Beginning { most, ..Beginning::default() };
    // It ends early where it has counted enough, and where the value's own text fails: what there is of it is shown.
    let _ = beginning.write_fmt(text);
    beginning.shown()
}

/// Keeps the first characters written to it and counts the others.
#[derive(Default)]
struct Beginning {
    kept: String,
    /// Characters that may be kept.
    most: usize,
    characters: usize,
    /// Brackets that are open.
    depth: usize,
    /// Within text in quotes, and behind its backslash.
    quoted: bool,
    escaped: bool,
    /// Commas between the entries of the outermost list.
    commas: usize,
    /// Length of the kept text before the last of these commas in it, and their number up to there.
    complete: (usize, usize),
}

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' if self.quoted => self.escaped = true,
                '"' => self.quoted = !self.quoted,
                _ if self.quoted => (),
                '[' | '{' | '(' => self.depth += 1,
                ']' | '}' | ')' => self.depth = self.depth.saturating_sub(1),
                ',' if self.depth == 1 => {
                    self.commas += 1;
                    if self.characters < self.most {
                        self.complete = (self.kept.len(), self.commas);
                    }
                }
                _ => (),
            }
            if self.characters < self.most {
                self.kept.push(character);
            }
            self.characters += 1;
        }
        if self.characters < COUNTED { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Beginning {
    fn shown(mut self) -> String {
        let more = self.characters.saturating_sub(self.most);
        if more == 0 {
            return self.kept;
        }
        let than = if self.characters < COUNTED { "" } else { "more than " };
        let (length, entries) = self.complete;
        // Brackets or quotes of a text of its own kind may not match: then its characters are counted.
        if self.kept.starts_with(['[', '{']) && entries > 0 && (self.depth == 0 || !than.is_empty()) && !self.quoted {
            self.kept.truncate(length);
            return format!("{}, ... and {than}{} more entries", self.kept, grouped(self.commas + 1 - entries));
        }
        format!("{}... and {than}{} more characters", self.kept, grouped(more))
    }
}

/// A count with its digits in groups of three.
fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.map(|group| group.iter().map(|&digit| char::from(digit)).collect::<String>()).collect::<Vec<_>>().join(",")
}

/// Four significant digits, in scientific notation where zeros would pile up.
pub(crate) fn number(x: f64) -> String {
    let size = x.abs();
    if x == 0.0 || !x.is_finite() {
        format!("{x}")
    } else if !(1e-3..1e6).contains(&size) {
        format!("{x:.3e}")
    } else {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
        format!("{x:.digits$}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use polars::prelude::df;

    #[test]
    fn long_tables_are_cut_in_the_middle_and_say_their_shape() {
        let html = html_table(&df!["step" => (0..100).collect::<Vec<i32>>()].unwrap(), "");
        assert!(html.contains("100 rows &#215; 1 columns") && html.contains("&#8942;"));
        assert!(html.contains(">5<") && !html.contains(">6<") && html.contains(">94<"), "{html}");
    }

    #[test]
    fn wide_tables_and_huge_cells_are_cut_and_say_how_much() {
        let columns = (0..300).map(|index| polars::prelude::Column::new(format!("c{index}").into(), [index]));
        let wide = DataFrame::new(1, columns.collect()).unwrap();
        let html = html_table(&wide, "");
        assert!(
            html.contains("1 rows &#215; 300 columns") && html.contains("&#8943;") && html.contains(">c299<"),
            "{html}"
        );
        assert!(!html.contains(">c12<") && html.len() < 4000, "{}", html.len());
        let huge = "x".repeat(1_000_000);
        let html = html_table(&df![huge.as_str() => [huge.as_str()]].unwrap(), &huge);
        assert!(html.contains("and 999,880 more characters") && html.len() < 2000, "{}", html.len());
    }

    #[test]
    fn the_text_of_a_huge_value_is_cut_and_says_how_much_more_there_is() {
        let shown = |value: &dyn Debug| beginning(format_args!("{value:?}"), SHOWN_VALUE);
        let list = shown(&(0..1_000_000).collect::<Vec<i32>>());
        assert!(list.starts_with("[0, 1, 2, 3,") && list.len() < 2000, "{list}");
        // What stands there and what is counted is the whole list.
        let (head, count) = list.split_once(", ... and ").unwrap();
        let last: usize = head.rsplit(", ").next().unwrap().parse().unwrap();
        assert_eq!(count, format!("{} more entries", grouped(1_000_000 - last - 1)));
        let pairs = shown(&vec![("a, b] \"c\"", [1, 2]); 1000]);
        let whole = head_entries(&pairs, "(\"a, b] \\\"c\\\"\", [1, 2])");
        assert!(pairs.ends_with(&format!("and {} more entries", 1000 - whole)), "{pairs}");
        let text = shown(&"y".repeat(5000));
        assert!(text.starts_with("\"yyy") && text.ends_with("... and 3,502 more characters"), "{text}");
        assert_eq!(shown(&[1, 2, 3]), "[1, 2, 3]");
        assert_eq!(shown(&Some(vec![7; 3])), "Some([7, 7, 7])");
    }

    /// How often an entry stands in a text.
    fn head_entries(text: &str, entry: &str) -> usize {
        text.matches(entry).count()
    }

    #[test]
    fn a_value_that_is_too_long_to_be_counted_is_shown() {
        struct Endless; // as good as
        impl Debug for Endless {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.debug_list().entries(std::iter::repeat_n(1, 100_000_000)).finish()
            }
        }
        let shown = beginning(format_args!("{Endless:?}"), 20);
        let (head, count) = shown.split_once(" and more than ").unwrap();
        let count: usize = count.replace(',', "").trim_end_matches(" more entries").parse().unwrap();
        assert!(head.starts_with("[1, 1, 1") && (3_000_000..4_000_000).contains(&count), "{shown}");
    }

    #[test]
    fn only_frames_are_shown_as_tables() {
        let frame = df!["a" => [1]].unwrap();
        assert!(as_frame(&frame).is_some_and(|found| found.equals(&frame)));
        let text = String::from("a");
        assert!(as_frame(&Some(text.as_str())).is_none() && as_frame(text.as_str()).is_none());
        assert!(as_frame(&Some(frame)).is_none());
    }

    #[test]
    fn text_is_escaped_and_numbers_are_rounded() {
        let html = html_table(&df!["a<b" => [0.123456789], "t" => ["<script>"]].unwrap(), "");
        assert!(html.contains("a&lt;b") && html.contains("&lt;script&gt;") && html.contains(">0.1235<"), "{html}");
    }

    #[test]
    fn numbers_keep_four_significant_digits() {
        assert_eq!([0.0, 1.0, 123.456, 87654.3, 1e-7].map(number), ["0", "1.000", "123.5", "87654", "1.000e-7"]);
    }
}
