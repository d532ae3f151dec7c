// SPDX-License-Identifier: EUPL-1.2
//! JSON as Python's `json.dumps` lays it out: models have seen tools described that way.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

/// Spaces before a line, at most: a template may ask for any number.
const WIDEST_INDENT: usize = 1024;

/// How to lay JSON out.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Spaces for each level; all on one line if `None`.
    pub indent: Option<usize>,
    pub item_separator: String,
    pub key_separator: String,
    /// Escape what is not ASCII.
    pub ascii: bool,
    /// Sort the keys of objects.
    pub sorted: bool,
}

impl Layout {
    /// The layout for this `indent`, all else by default.
    pub fn new(indent: Option<usize>) -> Self {
        let item = if indent.is_some() { "," } else { ", " };
        Layout { indent, item_separator: item.into(), key_separator: ": ".into(), ascii: false, sorted: false }
    }
}

/// The value as JSON.
///
/// # Errors
/// None that a value of JSON can cause.
pub(super) fn to_json(mut value: Value, layout: &Layout) -> serde_json::Result<String> {
    if layout.sorted {
        value.sort_all_objects();
    }
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, Python { layout, level: 0, is_empty: true }))?;
    String::from_utf8(json).map_err(serde::ser::Error::custom)
}

struct Python<'a> {
    layout: &'a Layout,
    level: usize,
    /// Whether nothing was written yet in the array or object.
    is_empty: bool,
}

impl Python<'_> {
    fn open<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &str) -> io::Result<()> {
        self.level += 1;
        self.is_empty = true;
        writer.write_all(bracket.as_bytes())
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if !self.is_empty {
            writer.write_all(self.layout.item_separator.as_bytes())?;
        }
        self.is_empty = false;
        self.line(writer)
    }

    fn close<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &str) -> io::Result<()> {
        self.level -= 1;
        if !self.is_empty {
            self.line(writer)?;
        }
        self.is_empty = false;
        writer.write_all(bracket.as_bytes())
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        match self.layout.indent {
            Some(indent) => write!(writer, "\n{}", " ".repeat(indent.saturating_mul(self.level).min(WIDEST_INDENT))),
            None => Ok(()),
        }
    }
}

impl Formatter for Python<'_> {
    /// The shortest digits that give the number, with Python's exponent: `1e-05`, `1e+16`.
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let text = format!("{value:?}");
        match text.split_once('e') {
            None => writer.write_all(text.as_bytes()),
            Some((digits, exponent)) => match exponent.strip_prefix('-') {
                Some(exponent) => write!(writer, "{digits}e-{exponent:0>2}"),
                None => write!(writer, "{digits}e+{exponent:0>2}"),
            },
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if !self.layout.ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for character in fragment.chars() {
            if character.is_ascii() && character != '\x7f' {
                write!(writer, "{character}")?;
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, "[")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, _first: bool) -> io::Result<()> {
        self.item(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, "]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.open(writer, "{")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, _first: bool) -> io::Result<()> {
        self.item(writer)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.layout.key_separator.as_bytes())
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.close(writer, "}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(value: Value, layout: Layout) -> String {
        to_json(value, &layout).unwrap()
    }

    #[test]
    fn one_line_and_indented_good() {
        let value = json!({"a": [1, {}, []], "b": {"c": null}});
        assert_eq!(write(value.clone(), Layout::new(None)), r#"{"a": [1, {}, []], "b": {"c": null}}"#);
        let indented = "{\n  \"a\": [\n    1,\n    {},\n    []\n  ],\n  \"b\": {\n    \"c\": null\n  }\n}";
        assert_eq!(write(value, Layout::new(Some(2))), indented);
    }

    #[test]
    fn numbers_as_python_writes_them_good() {
        let value = json!([1.0, 0.1, 1e16, 1e-5, -2.5e-7, 1e22, 123456789.0]);
        let expected = "[1.0, 0.1, 1e+16, 1e-05, -2.5e-07, 1e+22, 123456789.0]";
        assert_eq!(write(value, Layout::new(None)), expected);
    }

    #[test]
    fn escapes_good() {
        let value = json!("\"\\/\u{8}\u{c}\n\r\t\u{1}\u{7f}é😀");
        let layout = Layout::new(None);
        let ascii = Layout { ascii: true, ..layout.clone() };
        assert_eq!(write(value.clone(), layout), "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\u{7f}é😀\"");
        assert_eq!(write(value, ascii), "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f\\u00e9\\ud83d\\ude00\"");
    }
}
