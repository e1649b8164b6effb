//! How values show themselves in a notebook: HTML and plain text for tables, SVG, PNG and plain text for charts, debug text
//! for everything else.

mod known;
mod live;
mod table;
mod text;

use std::fmt::{Debug, Write};

use base64::Engine;
use polars::prelude::DataFrame;
use serde_json::{Map, Value};

pub use known::LazyDisplay;
use known::known;
pub(crate) use live::is_live;
pub use live::{Shown, clear_output, interrupted, show};
pub(crate) use table::escape;
pub(crate) use text::{beginning, number};

/// Characters shown of a value, of a frame as text, and of a title or remark.
const SHOWN_VALUE: usize = 1500;
const SHOWN_FRAME: usize = 12_000;
const SHOWN_REMARK: usize = 500;

/// What a value looks like: contents by MIME type, of which a front end shows the best that it can.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    contents: Vec<(&'static str, String)>,
    metadata: Map<String, Value>,
}

impl Bundle {
    pub(crate) fn of(contents: impl Into<Vec<(&'static str, String)>>) -> Bundle {
        Bundle { contents: contents.into(), metadata: Map::new() }
    }

    /// A text, cut if it is long.
    pub(crate) fn text(text: std::fmt::Arguments) -> Bundle {
        Bundle::of([("text/plain", beginning(text, SHOWN_VALUE))])
    }

    /// A frame with a remark above its shape.
    pub(crate) fn table(frame: &DataFrame, remark: &str) -> Bundle {
        let mut text = beginning(format_args!("{frame}"), SHOWN_FRAME);
        if !remark.is_empty() {
            text = format!("{}\n{text}", beginning(format_args!("{remark}"), SHOWN_REMARK));
        }
        Bundle::of([("text/html", table::html_table(frame, remark)), ("text/plain", text)])
    }

    /// A PNG picture and what it shows in words. Notebooks that are not trusted show this, and no SVG.
    pub(crate) fn picture(png: &[u8], words: &str) -> Bundle {
        let png = base64::engine::general_purpose::STANDARD.encode(png);
        Bundle::of([("image/png", png), ("text/plain", words.to_owned())])
    }

    /// The same with another content.
    pub(crate) fn with(mut self, mime: &'static str, content: String) -> Bundle {
        self.contents.insert(0, (mime, content));
        self
    }

    /// Marks a display of progress, which depends on how fast the machine is.
    pub(crate) fn marked_as_progress(mut self) -> Bundle {
        self.metadata.insert("stemm".into(), "progress".into());
        self
    }

    /// The content of a MIME type.
    pub fn get(&self, mime: &str) -> Option<&str> {
        self.contents.iter().find(|(own, _)| *own == mime).map(|(_, content)| content.as_str())
    }

    fn data(&self) -> Map<String, Value> {
        self.contents.iter().map(|(mime, content)| ((*mime).to_owned(), content.clone().into())).collect()
    }

    /// Hands it to the kernel as what the cell shows.
    fn print(&self) {
        let mut text = String::new();
        for (mime, content) in &self.contents {
            // Writing to a string cannot fail.
            let _ = write!(text, "EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT\n");
        }
        // One write, so that other threads' lines cannot come between.
        print!("{text}");
    }
}

/// A value with a look of its own. Every type of this crate that has one stands in `known.rs`.
pub(crate) trait Show {
    fn look(&self) -> Bundle;
}

/// Shows the value of a cell's last expression: tables, charts and tensors as such, everything else as its debug text, `()`
/// not at all. What is long is cut, with a count of what is not shown.
///
/// A type of your own shows itself by a method `evcxr_display(&self)`. The kernel would find the debug text without this
/// trait as well, but only by compiling the cell a second time.
pub trait NotebookDisplay {
    /// What the value looks like.
    fn bundle(&self) -> Bundle;

    /// Called by the kernel for the value of a cell's last expression.
    fn evcxr_display(&self) {
        self.bundle().print();
    }

    /// Shows the value now: the same as [`show`].
    fn show(&self) -> Shown {
        show(self)
    }
}

impl<T: Debug + ?Sized> NotebookDisplay for T {
    fn bundle(&self) -> Bundle {
        match known(self) {
            Some(value) => value.look(),
            None if typeid::of::<T>() == typeid::of::<()>() => Bundle::default(), // what loops and statements end with
            None => debug_text(self),
        }
    }
}

/// A value's debug text; that of a struct one field a line.
fn debug_text<T: Debug + ?Sized>(value: &T) -> Bundle {
    let text = Bundle::text(format_args!("{value:?}"));
    let name = text.get("text/plain").and_then(|text| text.split_once(" { ")).map_or("", |(name, _)| name);
    match !name.is_empty() && name.chars().all(|character| character.is_alphanumeric() || character == '_') {
        true => Bundle::text(format_args!("{value:#?}")),
        false => text,
    }
}

/// A title of a chart among others, as text.
pub(crate) fn title(title: &str) -> String {
    beginning(format_args!("{title}"), SHOWN_REMARK)
}
