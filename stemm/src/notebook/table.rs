//! Frames as HTML tables.

use polars::prelude::{AnyValue, DataFrame, DataType};

use super::SHOWN_REMARK;
use super::text::{beginning, number};

/// Characters shown of a cell and of a column's name.
const SHOWN_CELL: usize = 120;
const SHOWN_NAME: usize = 60;
/// Rows shown of a long table, at its head and at its tail.
const SHOWN_ROWS: usize = 40;
/// Columns shown of a wide table, at its left and at its right.
const SHOWN_COLUMNS: usize = 24;

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
    // What does not fit is scrolled to.
    let scrolled = "<div style=\"overflow:auto;max-width:100%;max-height:30em\">";
    let mut html = format!("{scrolled}<table><thead>{}</thead><tbody>", row("th", &name));
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
    html += "</tbody></table></div>";
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

pub(crate) fn escape(text: &str) -> String {
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
        assert!(html.contains(">19<") && !html.contains(">20<") && html.contains(">80<"), "{html}");
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
    fn text_is_escaped_and_numbers_are_rounded() {
        let html = html_table(&df!["a<b" => [0.123456789], "t" => ["<script>"]].unwrap(), "");
        assert!(html.contains("a&lt;b") && html.contains("&lt;script&gt;") && html.contains(">0.1235<"), "{html}");
    }
}
