//! How results show themselves in a notebook: HTML and plain text for tables, SVG, PNG and plain text for charts.

use std::fmt::Debug;

use polars::prelude::{AnyValue, DataFrame, DataType};

/// Rows shown of a long table, at its head and at its tail.
const SHOWN_ROWS: usize = 12;

/// Sends one result to the notebook, as a bundle of `(mime type, content)`; the front end picks the best it can show.
pub(crate) fn show(bundle: &[(&str, String)]) {
    use std::fmt::Write;
    let mut text = String::new();
    for (mime, content) in bundle {
        // Writing to a string cannot fail.
        let _ = write!(text, "EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT\n");
    }
    // One write, so that other threads' lines cannot come between.
    print!("{text}");
}

/// Shows the value of a cell's last expression: frames as HTML tables, everything else as its debug text, `()` not at all.
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
            None => show(&[("text/plain", format!("{self:?}"))]),
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
    let text = if remark.is_empty() { frame.to_string() } else { format!("{remark}\n{frame}") };
    show(&[("text/html", html_table(frame, remark)), ("text/plain", text)]);
}

/// A frame as an HTML table: rounded, with its shape, cut in the middle if it is long.
pub(crate) fn html_table(frame: &DataFrame, remark: &str) -> String {
    let (height, width) = frame.shape();
    let cut = height > SHOWN_ROWS;
    let rows: Vec<usize> =
        if cut { (0..SHOWN_ROWS / 2).chain(height - SHOWN_ROWS / 2..height).collect() } else { (0..height).collect() };
    let mut html = String::from("<table><thead><tr>");
    for column in frame.columns() {
        let align = if is_number(column.dtype()) { "right" } else { "left" };
        html += &format!("<th style=\"text-align:{align}\">{}</th>", escape(column.name()));
    }
    html += "</tr></thead><tbody>";
    for (position, &row) in rows.iter().enumerate() {
        if cut && position == SHOWN_ROWS / 2 {
            let cells = "<td style=\"text-align:center\">&#8942;</td>".repeat(width);
            html += &format!("<tr>{cells}</tr>");
        }
        html += "<tr>";
        for column in frame.columns() {
            let align = if is_number(column.dtype()) { "right" } else { "left" };
            let value = column.get(row).map_or(String::new(), |value| cell(&value));
            html += &format!("<td style=\"text-align:{align}\">{}</td>", escape(&value));
        }
        html += "</tr>";
    }
    html += "</tbody></table>";
    let remark = if remark.is_empty() { String::new() } else { format!("{} &#183; ", escape(remark)) };
    html + &format!("<p>{remark}{height} rows &#215; {width} columns</p>")
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
        AnyValue::String(text) => (*text).to_owned(),
        AnyValue::StringOwned(text) => text.to_string(),
        other => other.to_string(),
    }
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
