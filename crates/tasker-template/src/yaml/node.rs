//! The tree between YAML and the template: JSON values with their positions in the file.

use serde_json::{Map, Number, Value};

use super::position::Pos;
use super::problem::{child, item};
use crate::text::shorten;

/// A value and its position. The position of an alias is the place of its use; the positions within
/// it are those of its anchor.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub pos: Pos,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub(crate) enum Data {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A problem has already been reported here.
    Broken,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: Key,
    pub node: Node,
}

#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub pos: Pos,
    pub text: String,
    /// A problem has already been reported here.
    pub broken: bool,
}

impl Data {
    /// The type for an error message, with a scalar's value, cut if it is long.
    pub fn kind(&self) -> String {
        match self {
            Data::Null => "nothing (null)".into(),
            Data::Bool(value) => format!("the boolean {value}"),
            Data::Number(number) => format!("the number {}", shorten(&number.to_string())),
            Data::Text(text) => format!("the string {:?}", shorten(text)),
            Data::List(_) => "a list".into(),
            Data::Map(_) => "a mapping".into(),
            Data::Broken => "an invalid value".into(),
        }
    }
}

impl Node {
    /// The JSON value; a broken value becomes null.
    pub fn to_json(&self) -> Value {
        match &self.data {
            Data::Null | Data::Broken => Value::Null,
            Data::Bool(value) => Value::Bool(*value),
            Data::Number(number) => Value::Number(number.clone()),
            Data::Text(text) => Value::String(text.clone()),
            Data::List(items) => items.iter().map(Node::to_json).collect(),
            Data::Map(entries) => Value::Object(json_map(entries)),
        }
    }

    /// Whether a problem was reported anywhere inside.
    pub fn is_broken(&self) -> bool {
        match &self.data {
            Data::Broken => true,
            Data::List(items) => items.iter().any(Node::is_broken),
            Data::Map(entries) => entries
                .iter()
                .any(|entry| entry.key.broken || entry.node.is_broken()),
            _ => false,
        }
    }

    /// Position and path of the value at a JSON pointer into this node, or of the last existing
    /// value on the way to it.
    pub fn locate(&self, pointer: &str, path: &str) -> (Pos, String) {
        let (mut node, mut path) = (self, path.to_owned());
        for token in pointer.split('/').skip(1) {
            // In this order: `~01` is the escaped form of `~1`, and not of `/`.
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match &node.data {
                Data::Map(entries) => entries
                    .iter()
                    .find(|entry| entry.key.text == token)
                    .map(|entry| (&entry.node, child(&path, &token))),
                Data::List(items) => token
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| Some((items.get(index)?, item(&path, index)))),
                _ => None,
            };
            // The place of a missing property is its object.
            let Some(next) = next else { break };
            (node, path) = next;
        }
        (node.pos, path)
    }
}

pub(crate) fn json_map(entries: &[Entry]) -> Map<String, Value> {
    entries
        .iter()
        .map(|entry| (entry.key.text.clone(), entry.node.to_json()))
        .collect()
}
