// SPDX-License-Identifier: EUPL-1.2
//! Chat templates as transformers runs them: Jinja with Python's methods, JSON and dates.

use std::error::Error as _;
use std::io;

use jiff::Zoned;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::python_json::{Layout, to_json};

/// Instructions that a template may take; the longest conversations take a thousandth.
const FUEL: u64 = 20_000_000;

/// Bytes that a template may write.
const LONGEST_OUTPUT: usize = 64 << 20;

/// A compiled template.
#[derive(Clone, Debug)]
pub(super) struct Template {
    environment: Environment<'static>,
}

const NAME: &str = "chat";

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// What is wrong with it and on which line.
    pub fn new(source: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(describe)?;
        environment.set_syntax(syntax);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(python_method);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(describe)?;
        Ok(Template { environment })
    }

    /// Renders it with these variables.
    ///
    /// # Errors
    /// What the template raised, or why it failed.
    pub fn render(&self, variables: Value) -> Result<String, String> {
        let template = self.environment.get_template(NAME).map_err(describe)?;
        let mut output = Output::default();
        template.render_captured_to(variables, &mut output).map_err(describe)?;
        String::from_utf8(output.bytes).map_err(|error| error.to_string())
    }
}

/// Python's methods on strings, lists and dicts: those that `pycompat` lacks or has otherwise, and those it has.
fn python_method(state: &mut State, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), method) {
        (Some(text), "title") => {
            let () = from_args(arguments)?;
            Ok(title(text).into())
        }
        (Some(text), "removeprefix") => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        (Some(text), "removesuffix") => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        _ => pycompat::unknown_method_callback(state, value, method, arguments),
    }
}

/// Letters after letters in lower case, others in upper case.
fn title(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut after_letter = false;
    for character in text.chars() {
        if after_letter {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        after_letter = character.is_lowercase() || character.is_uppercase();
    }
    titled
}

/// What a template passed to `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// The present time, here, by the format of C's `strftime`.
fn strftime_now(format: String) -> Result<String, Error> {
    jiff::fmt::strtime::format(&format, &Zoned::now())
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}")))
}

fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let fail = |error: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidOperation, format!("tojson: {error}"));
    let mut layout = Layout::new(options.get("indent")?);
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        let [item, key] = <[String; 2]>::try_from(separators).map_err(|_| fail(&"separators: expected two"))?;
        (layout.item_separator, layout.key_separator) = (item, key);
    }
    layout.ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    layout.sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(|error| fail(&error))?;
    to_json(value, &layout).map_err(|error| fail(&error))
}

/// `{% generation %}` marks what to train on. Like it, `{% with %}` writes its body, in a scope of its own.
fn without_generation_tags(source: &str) -> String {
    const TAGS: [(&str, &str); 2] = [("generation", "with"), ("endgeneration", "endwith")];
    let mut blocks = source.split("{%");
    let mut rewritten = blocks.next().unwrap_or_default().to_owned();
    for block in blocks {
        rewritten.push_str("{%");
        let tag = block.trim_start_matches(['-', '+']).trim_start();
        let replaced = TAGS.iter().find_map(|(from, to)| {
            let rest = tag.strip_prefix(from)?;
            let ends = rest.trim_start().trim_start_matches(['-', '+']).starts_with("%}");
            ends.then(|| [&block[..block.len() - tag.len()], to, rest].concat())
        });
        match replaced {
            Some(block) => rewritten.push_str(&block),
            None => rewritten.push_str(block),
        }
    }
    rewritten
}

/// One line that says what failed and where.
fn describe(error: Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return message.replace('\n', " ");
        }
        if let Some(limit) = inner.downcast_ref::<io::Error>() {
            return limit.to_string();
        }
        cause = inner.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("stopped after {FUEL} instructions: expected a template that ends");
    }
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

/// Takes what a template writes, up to a limit.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > LONGEST_OUTPUT {
            let message = format!("stopped after {} MiB of text: expected less", LONGEST_OUTPUT >> 20);
            return Err(io::Error::other(message));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::context;

    use super::*;

    fn render(source: &str) -> Result<String, String> {
        Template::new(source)?.render(context! { words => ["a<b>", "é"], none => () })
    }

    #[test]
    fn blocks_are_trimmed_as_in_transformers_good() {
        assert_eq!(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n").unwrap(), "a\nb\nc");
    }

    #[test]
    fn json_as_python_writes_it_good() {
        assert_eq!(render("{{ words | tojson }}").unwrap(), r#"["a<b>", "é"]"#);
        assert_eq!(
            render("{{ words | tojson(indent=1, ensure_ascii=true) }}").unwrap(),
            "[\n \"a<b>\",\n \"\\u00e9\"\n]"
        );
        assert_eq!(
            render("{{ {'b': 1.0, 'a': none} | tojson(sort_keys=true, separators=(',', ':')) }}").unwrap(),
            r#"{"a":null,"b":1.0}"#
        );
    }

    #[test]
    fn generation_tags_write_their_body_good() {
        let source = "{%- generation -%} {% set x = 1 %}{{ x }} {%- endgeneration %}|{{ x }}";
        assert_eq!(render(source).unwrap(), "1|");
        assert_eq!(render("{% set generation = 2 %}{{ generation }}").unwrap(), "2");
    }

    #[test]
    fn python_methods_good() {
        assert_eq!(
            render("{{ ' x '.strip() ~ 'a b'.split()[-1] ~ {'k': 1}.items() | list }}").unwrap(),
            "xb[('k', 1)]"
        );
    }

    #[test]
    fn methods_that_pycompat_lacks_good() {
        assert_eq!(render("{{ \"they're <b_c>\".title() }}").unwrap(), "They'Re <B_C>");
        assert_eq!(render("{{ 'abc'.removeprefix('a').removesuffix('c').removeprefix('x') }}").unwrap(), "b");
    }

    #[test]
    fn the_date_has_a_form_good() {
        assert_eq!(render("{{ strftime_now('%d %b %Y') | length }}").unwrap(), "11");
    }

    #[test]
    fn raised_message_is_the_error_bad() {
        assert_eq!(render("{{ raise_exception('no\nway') }}").unwrap_err(), "no way");
        assert_eq!(render("{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}").unwrap_err(), "deep");
    }

    #[test]
    fn errors_name_the_line_bad() {
        assert!(render("a\n{% if %}").unwrap_err().starts_with("line 2: syntax error"));
        assert!(render("a\n{{ x | nofilter }}").unwrap_err().contains("nofilter"));
        assert!(render("{{ strftime_now('%') }}").unwrap_err().contains("strftime_now"));
    }

    #[test]
    fn endless_templates_are_stopped_ugly() {
        let endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = a %}{% endfor %}{% endfor %}";
        assert!(render(endless).unwrap_err().contains("instructions"));
        assert!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").is_err());
        let huge = "{% set a = 'x' * 100000 %}{% for b in range(90000) %}{{ a }}{% endfor %}";
        assert!(render(huge).unwrap_err().contains("64 MiB"));
    }
}
