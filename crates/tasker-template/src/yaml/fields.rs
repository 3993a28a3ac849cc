//! Typed access to the keys of a mapping: each invalid value adds a problem at its place.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Map, Value};

use super::node::{Data, Entry, Node, json_map};
use super::position::Pos;
use super::problem::{Names, Problems, child, item};
use crate::limits::{MAX_ANNOTATIONS_BYTES, MAX_TIMEOUT, MIN_TIMEOUT, timeout_expected};
use crate::name;
use crate::name::MAX_NAME_BYTES;
use crate::text::shorten;

/// Prefix of the keys that an author may add beside those of a template.
pub(crate) const OWN_KEYS: &str = "x-";

/// Message of the warning about a correlation id in a template's annotations.
const CORRELATION_ID: &str = "a template does not set the correlation id: each task gets its own from its submit, and its handlers receive it as `correlation_id`; expected another key";

/// The entries of a node that is a mapping.
pub(crate) struct Fields<'n> {
    pub pos: Pos,
    pub path: String,
    entries: &'n [Entry],
}

/// A value with its place.
pub(crate) struct Field<'n> {
    pub key_pos: Pos,
    pub path: String,
    pub node: &'n Node,
}

/// Two spellings of one key.
pub(crate) struct Alias {
    pub key: &'static str,
    pub alias: &'static str,
}

impl<'n> Fields<'n> {
    /// The entries of the mapping `node`; `what` is the expectation in the problem for any other
    /// node.
    pub fn of(node: &'n Node, path: &str, what: &str, problems: &mut Problems) -> Option<Self> {
        match &node.data {
            Data::Map(entries) => Some(Fields {
                pos: node.pos,
                path: path.to_owned(),
                entries,
            }),
            // The place has its problem already.
            Data::Broken => None,
            other => {
                problems.add(
                    node.pos,
                    path,
                    format!("expected {what}, found {}", other.kind()),
                );
                None
            }
        }
    }

    pub fn get(&self, key: &str) -> Option<Field<'n>> {
        let entry = self
            .entries
            .iter()
            .find(|entry| !entry.key.broken && entry.key.text == key)?;
        Some(Field {
            key_pos: entry.key.pos,
            path: child(&self.path, key),
            node: &entry.node,
        })
    }

    /// As [`Fields::get`]; a key without a value counts as absent.
    pub fn filled(&self, key: &str) -> Option<Field<'n>> {
        self.get(key).filter(Field::is_filled)
    }

    /// The value under either spelling; both at once are a problem.
    pub fn either(
        &self,
        Alias { key, alias }: Alias,
        problems: &mut Problems,
    ) -> Option<Field<'n>> {
        match (self.get(key), self.get(alias)) {
            // A key without a value counts as absent, and does not conflict.
            (Some(first), Some(second)) if !second.is_filled() => Some(first),
            (Some(first), Some(second)) if !first.is_filled() => Some(second),
            (Some(first), Some(second)) => {
                // Reported at the later key, which repeats the other one.
                let (later, path) = if first.key_pos < second.key_pos {
                    (second.key_pos, second.path)
                } else {
                    (first.key_pos, first.path.clone())
                };
                problems.add(
                    later,
                    path,
                    format!("`{key}` and `{alias}` are the same key; expected only one of them"),
                );
                Some(first)
            }
            (found, None) | (None, found) => found,
        }
    }

    /// Adds a problem for a missing required key.
    pub fn missing(&self, key: &str, problems: &mut Problems) {
        problems.add(
            self.pos,
            self.path.as_str(),
            format!("the key `{key}` is missing"),
        );
    }

    /// All entries.
    pub fn entries(&self) -> &'n [Entry] {
        self.entries
    }

    /// All keys with their fields.
    pub fn all(&self) -> impl Iterator<Item = (String, Field<'n>)> {
        self.entries
            .iter()
            .filter(|entry| !entry.key.broken)
            .map(|Entry { key, node }| {
                (
                    key.text.clone(),
                    Field {
                        key_pos: key.pos,
                        path: child(&self.path, &key.text),
                        node,
                    },
                )
            })
    }

    /// Adds a problem for each key outside `known`; a key with the prefix `x-` belongs to the
    /// author, for example to hold anchors.
    pub fn refuse_unknown(&self, known: &[&str], problems: &mut Problems) {
        let judged = |entry: &&Entry| !entry.key.broken && !entry.key.text.starts_with(OWN_KEYS);
        for Entry { key, .. } in self.entries.iter().filter(judged) {
            let word = key.text.as_str();
            if !known.contains(&word) {
                let hint = problems.hint(word, known.iter().copied());
                let hint = if hint.is_empty() {
                    format!("; expected one of {}", known.join(", "))
                } else {
                    hint
                };
                problems.add(
                    key.pos,
                    child(&self.path, word),
                    format!("unknown key `{}`{hint}", shorten(word)),
                );
            }
        }
    }
}

impl<'n> Field<'n> {
    /// Whether the key has a value.
    pub fn is_filled(&self) -> bool {
        !matches!(self.node.data, Data::Null)
    }

    fn expected<T>(&self, what: &str, problems: &mut Problems) -> Option<T> {
        if !matches!(self.node.data, Data::Broken) {
            self.problem(
                format!("expected {what}, found {}", self.node.data.kind()),
                problems,
            );
        }
        None
    }

    pub fn problem(&self, message: impl Into<String>, problems: &mut Problems) {
        problems.add(self.node.pos, self.path.as_str(), message);
    }

    pub fn text(&self, problems: &mut Problems) -> Option<&'n str> {
        match &self.node.data {
            Data::Text(text) => Some(text),
            Data::Number(_) | Data::Bool(_) => self.expected("a string (in quotes)", problems),
            _ => self.expected("a string", problems),
        }
    }

    /// A string that is a legal name by the rule in `problems`.
    pub fn name(&self, problems: &mut Problems) -> Option<&'n str> {
        let text = self.text(problems)?;
        let legal = match problems.names {
            Names::New => name::check(text),
            Names::Stored => stored_name(text),
        };
        match legal {
            Ok(()) => Some(text),
            Err(problem) => {
                self.problem(problem, problems);
                None
            }
        }
    }

    /// A reference to a name that the template defines elsewhere, where the grammar is checked.
    pub fn reference(&self, problems: &mut Problems) -> Option<&'n str> {
        let text = self.text(problems)?;
        let legal = stored_name(text);
        legal
            .map(|()| text)
            .map_err(|problem| self.problem(problem, problems))
            .ok()
    }

    pub fn bool(&self, problems: &mut Problems) -> Option<bool> {
        match self.node.data {
            Data::Bool(value) => Some(value),
            _ => self.expected("true or false", problems),
        }
    }

    /// The text of a condition: an expression in a string, or a boolean.
    pub fn condition(&self, problems: &mut Problems) -> Option<String> {
        match &self.node.data {
            Data::Text(text) => Some(text.clone()),
            Data::Bool(value) => Some(value.to_string()),
            _ => self.expected("a condition (an expression in a string)", problems),
        }
    }

    /// A time of [`MIN_TIMEOUT`] to [`MAX_TIMEOUT`].
    pub fn timeout(&self, problems: &mut Problems) -> Option<Duration> {
        let (min, max) = (MIN_TIMEOUT.as_secs_f64(), MAX_TIMEOUT.as_secs_f64());
        let fits = |seconds: f64| (min..=max).contains(&seconds);
        self.number(&timeout_expected(), fits, problems)
            .map(Duration::from_secs_f64)
    }

    pub fn integer(&self, range: RangeInclusive<u32>, problems: &mut Problems) -> Option<u32> {
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        match &self.node.data {
            // By the text: `3.0` is a number with a fraction, whatever its value.
            Data::Number(number) => match number.to_string().parse::<u32>() {
                Ok(value) if range.contains(&value) => Some(value),
                _ => self.expected(&what, problems),
            },
            _ => self.expected(&what, problems),
        }
    }

    /// A number for which `fits` holds; `what` is the expectation in the problem otherwise.
    pub fn number(
        &self,
        what: &str,
        fits: impl Fn(f64) -> bool,
        problems: &mut Problems,
    ) -> Option<f64> {
        match &self.node.data {
            Data::Number(number) => match number.as_f64() {
                Some(value) if fits(value) => Some(value),
                _ => self.expected(what, problems),
            },
            _ => self.expected(what, problems),
        }
    }

    pub fn list(&self, what: &str, problems: &mut Problems) -> Option<Vec<Field<'n>>> {
        let Data::List(items) = &self.node.data else {
            return self.expected(what, problems);
        };
        let field = |(index, node): (usize, &'n Node)| Field {
            key_pos: node.pos,
            path: item(&self.path, index),
            node,
        };
        Some(items.iter().enumerate().map(field).collect())
    }

    /// The annotations of a task or a step: a mapping of free content, except for `correlation_id`,
    /// which belongs to each task.
    pub fn annotations(&self, problems: &mut Problems) -> Option<Map<String, Value>> {
        self.warn_of_correlation_id(problems);
        self.json_map(MAX_ANNOTATIONS_BYTES, problems)
    }

    /// Adds a warning for a correlation id in annotations: a template is shared by all of its
    /// tasks, while each task has its own id.
    pub fn warn_of_correlation_id(&self, problems: &mut Problems) {
        // `json_map` reports a value that is no mapping.
        let own = Fields::of(self.node, &self.path, "", &mut Problems::default());
        if let Some(own) = own.and_then(|fields| fields.get("correlation_id")) {
            problems.warn(own.key_pos, own.path, CORRELATION_ID);
        }
    }

    /// A mapping of free content with at most `max_bytes` of JSON.
    pub fn json_map(
        &self,
        max_bytes: usize,
        problems: &mut Problems,
    ) -> Option<Map<String, Value>> {
        let Data::Map(entries) = &self.node.data else {
            return self.expected("a mapping", problems);
        };
        let map = json_map(entries);
        // As JSON, the form in which it is stored and sent; YAML may be shorter by its aliases.
        let bytes = serde_json::to_string(&map).map_or(usize::MAX, |json| json.len());
        if bytes > max_bytes {
            self.problem(
                format!(
                    "the mapping has {bytes} bytes as JSON, but at most {max_bytes} are allowed"
                ),
                problems,
            );
            return None;
        }
        Some(map)
    }
}

/// The rule for names before the grammar, which still applies to stored templates.
fn stored_name(text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err("expected a name, found an empty string".to_owned())
    } else if text.len() > MAX_NAME_BYTES {
        Err(format!(
            "the name has {} bytes, but at most {MAX_NAME_BYTES} are allowed",
            text.len()
        ))
    } else if text.contains(char::is_control) {
        Err("a name must not contain control characters or line breaks".to_owned())
    } else {
        Ok(())
    }
}
