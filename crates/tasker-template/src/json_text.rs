//! Validates JSON documents from clients and workers without building a tree: syntax, size, depth,
//! and the values that Postgres can store.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use crate::text::Pos;

/// Largest nesting depth of arrays and objects; a bare scalar has depth 0.
pub const MAX_DEPTH: usize = 128;

/// The most digits of a number on either side of its decimal point when it is written out without
/// an exponent.
///
/// Without a limit, a few bytes such as `1e999999999` would cost gigabytes in any program that
/// computes with them; Postgres's `numeric` has a limit, too.
pub const MAX_NUMBER_DIGITS: usize = 4_096;

/// `serde_json` takes an object with a key of this prefix for another type, such as a number.
const RESERVED_KEYS: &str = "$serde_json::private::";

/// Why a text is not a JSON document that can be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column} (byte {offset}): {message}")]
pub struct JsonError {
    /// Byte position in the text, from 0.
    pub offset: usize,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The problem and the expected text.
    pub message: String,
}

/// Checks that `text` is one JSON document of at most `max_bytes` bytes, nested at most
/// [`MAX_DEPTH`] deep, whose numbers have at most [`MAX_NUMBER_DIGITS`] digits and whose strings
/// Postgres's `jsonb` can hold.
///
/// # Errors
/// The first problem: syntax, size, depth, a repeated key, the escape `\u0000`, or half of a
/// surrogate pair.
pub fn check_document(text: &str, max_bytes: usize) -> Result<(), JsonError> {
    // Before the scan, so that an oversized text costs nothing.
    if text.len() > max_bytes {
        let message = format!(
            "the document has {} bytes, but at most {max_bytes} are allowed",
            text.len()
        );
        return Err(error_at(text, max_bytes, message));
    }
    let mut scanner = Scanner {
        bytes: text.as_bytes(),
        at: 0,
        open: Vec::new(),
        keys: Vec::new(),
    };
    scanner
        .document()
        .map_err(|(offset, message)| error_at(text, offset, message))
}

/// As [`check_document`], for a document that must be an object.
///
/// # Errors
/// As [`check_document`], or the document has another type.
pub fn check_object(text: &str, max_bytes: usize) -> Result<(), JsonError> {
    check_document(text, max_bytes)?;
    let offset = text.len() - text.trim_ascii_start().len();
    match text.as_bytes().get(offset) {
        Some(b'{') => Ok(()),
        _ => Err(error_at(text, offset, "expected an object".into())),
    }
}

/// Checks `text` and parses it into a tree that keeps each digit and the order of the keys.
///
/// `serde_json::from_str` stops one level before [`MAX_DEPTH`]; this function does not.
///
/// # Errors
/// As [`check_document`].
pub fn parse(text: &str, max_bytes: usize) -> Result<Value, JsonError> {
    check_document(text, max_bytes)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    reader.disable_recursion_limit(); // `check_document` bounds the depth.
    Value::deserialize(&mut reader).map_err(|error| error_at(text, 0, error.to_string()))
}

/// Whether a number in JSON syntax is within [`MAX_NUMBER_DIGITS`].
pub fn number_is_bounded(number: &str) -> bool {
    // Judged by its text: the value itself may be too large to compute with.
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Ok(exponent) = exponent.parse::<i64>() else {
        return false;
    };
    let limit = MAX_NUMBER_DIGITS as i64;
    let whole_digits = whole.trim_start_matches('-').len() as i64;
    whole_digits.saturating_add(exponent) <= limit
        && (fraction.len() as i64).saturating_sub(exponent) <= limit
}

fn error_at(text: &str, offset: usize, message: String) -> JsonError {
    let mut offset = offset.min(text.len());
    // A size limit may fall inside a character.
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    let Pos { line, column } = Pos::of(line, column);
    JsonError {
        offset,
        line,
        column,
        message,
    }
}

/// Byte offset and message.
type Failure = (usize, String);

#[derive(Clone, Copy, PartialEq)]
enum Container {
    Array,
    Object,
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    open: Vec<Container>,
    /// The keys of each open object so far, to refuse a repeated one: parsers disagree on its
    /// meaning.
    keys: Vec<HashSet<Cow<'a, str>>>,
}

impl<'a> Scanner<'a> {
    fn document(&mut self) -> Result<(), Failure> {
        // `open` is the stack, so that the nesting of a document cannot exhaust the thread's.
        loop {
            if self.value()? && self.after_value()? {
                return Ok(());
            }
        }
    }

    /// Reads a value, or only its start: `false` if it opened a container, whose first value
    /// follows.
    fn value(&mut self) -> Result<bool, Failure> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.enter(Container::Object),
            Some(b'[') => self.enter(Container::Array),
            Some(b'"') => self.string().map(|()| true),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| true),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            _ => self.expected("a value"),
        }
    }

    /// Opens a container; `true` for an empty one, which is a complete value.
    fn enter(&mut self, container: Container) -> Result<bool, Failure> {
        if self.open.len() == MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH} levels"));
        }
        self.at += 1;
        self.skip_space();
        let end = if container == Container::Object {
            b'}'
        } else {
            b']'
        };
        if self.peek() == Some(end) {
            self.at += 1;
            return Ok(true);
        }
        self.open.push(container);
        if container == Container::Object {
            self.keys.push(HashSet::new());
            self.key()?;
        }
        Ok(false)
    }

    fn key(&mut self) -> Result<(), Failure> {
        self.skip_space();
        if self.peek() != Some(b'"') {
            return self.expected("a key in double quotes");
        }
        let start = self.at;
        self.string()?;
        // Compared without escapes, since `"a"` and `"\u0061"` are one key.
        let key = self.key_text(start);
        if key.starts_with(RESERVED_KEYS) {
            return Err((
                start,
                format!("a key must not begin with `{RESERVED_KEYS}`"),
            ));
        }
        if self.keys.last_mut().is_some_and(|keys| !keys.insert(key)) {
            return Err((start, "the key appears twice in the same object".into()));
        }
        self.skip_space();
        if self.peek() != Some(b':') {
            return self.expected("`:` after the key");
        }
        self.at += 1;
        Ok(())
    }

    /// The key that begins at `start` and was just read, without its quotes and escapes.
    fn key_text(&self, start: usize) -> Cow<'a, str> {
        let quoted = &self.bytes[start..self.at];
        if quoted.contains(&b'\\') {
            // The scanner has accepted this string, so the parser does, too.
            return serde_json::from_slice(quoted).unwrap_or_default();
        }
        // The bytes between two ASCII quotes of a `str` are UTF-8, so nothing is replaced or
        // copied.
        String::from_utf8_lossy(&quoted[1..quoted.len() - 1])
    }

    /// Continues after a complete value and closes containers; `true` at the end of the document.
    fn after_value(&mut self) -> Result<bool, Failure> {
        loop {
            self.skip_space();
            match (self.open.last(), self.peek()) {
                (None, None) => return Ok(true),
                (None, Some(_)) => return self.expected("the end of the document"),
                (Some(Container::Array), Some(b']')) | (Some(Container::Object), Some(b'}')) => {
                    self.at += 1;
                    if self.open.pop() == Some(Container::Object) {
                        self.keys.pop();
                    }
                }
                (Some(Container::Array), Some(b',')) => {
                    self.at += 1;
                    return Ok(false);
                }
                (Some(Container::Object), Some(b',')) => {
                    self.at += 1;
                    return self.key().map(|()| false);
                }
                (Some(Container::Array), _) => return self.expected("`,` or `]`"),
                (Some(Container::Object), _) => return self.expected("`,` or `}`"),
            }
        }
    }

    fn string(&mut self) -> Result<(), Failure> {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.escape()?,
                Some(0x20..) => self.at += 1,
                Some(_) => {
                    return self.fail("a control character in a string must be escaped".into());
                }
                None => return self.expected("the closing `\"` of a string"),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Failure> {
        match self.bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => self.unicode_escape(),
            _ => self.fail(
                "expected one of the escapes \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX".into(),
            ),
        }
    }

    fn unicode_escape(&mut self) -> Result<(), Failure> {
        match self.code_unit(self.at)? {
            0 => self.fail("the escape \\u0000 cannot be stored by Postgres".into()),
            // Half of a pair is no character, and `jsonb` refuses it.
            0xD800..=0xDBFF => {
                let low = (self.bytes.get(self.at + 6..self.at + 8) == Some(b"\\u".as_slice()))
                    .then(|| self.code_unit(self.at + 6))
                    .transpose()?;
                if !matches!(low, Some(0xDC00..=0xDFFF)) {
                    return self.fail(
                        "expected the low half of the surrogate pair after this escape".into(),
                    );
                }
                self.at += 12;
                Ok(())
            }
            0xDC00..=0xDFFF => {
                self.fail("the low half of a surrogate pair without its high half".into())
            }
            _ => {
                self.at += 6;
                Ok(())
            }
        }
    }

    /// The value of the `\uXXXX` that starts at `start`.
    fn code_unit(&self, start: usize) -> Result<u16, Failure> {
        let digits = self.bytes.get(start + 2..start + 6).unwrap_or_default();
        if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err((start, "expected four hexadecimal digits after \\u".into()));
        }
        let digit = |byte: &u8| (*byte as char).to_digit(16).unwrap_or_default() as u16;
        Ok(digits.iter().fold(0, |unit, byte| unit << 4 | digit(byte)))
    }

    fn number(&mut self) -> Result<(), Failure> {
        let start = self.at;
        self.skip_one(b"-");
        if self.skip_one(b"0") {
            if matches!(self.peek(), Some(b'0'..=b'9')) {
                return self.fail("a number must not start with 0 and another digit".into());
            }
        } else {
            self.digits()?;
        }
        if self.skip_one(b".") {
            self.digits()?;
        }
        if self.skip_one(b"eE") {
            self.skip_one(b"+-");
            self.digits()?;
        }
        // Here and not in the parser, which would accept a short text with a huge exponent.
        let bounded = str::from_utf8(&self.bytes[start..self.at]).is_ok_and(number_is_bounded);
        if bounded {
            Ok(())
        } else {
            Err((
                start,
                format!("the number has more than {MAX_NUMBER_DIGITS} digits"),
            ))
        }
    }

    fn digits(&mut self) -> Result<(), Failure> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.expected("a digit");
        }
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<bool, Failure> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return self.expected("a value");
        }
        self.at += word.len();
        Ok(true)
    }

    fn skip_one(&mut self, choices: &[u8]) -> bool {
        let found = self.peek().is_some_and(|byte| choices.contains(&byte));
        self.at += usize::from(found);
        found
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn expected<T>(&self, what: &str) -> Result<T, Failure> {
        let end = if self.at >= self.bytes.len() {
            ", but the document ends"
        } else {
            ""
        };
        self.fail(format!("expected {what}{end}"))
    }

    fn fail<T>(&self, message: String) -> Result<T, Failure> {
        Err((self.at, message))
    }
}

#[cfg(test)]
mod tests;
