//! The targets of references inside a schema.

use std::collections::HashMap;

use serde_json::Value;

use super::pointer;

/// The keywords that refer to another schema.
pub(crate) const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
/// The keywords that name a schema for a reference.
pub(super) const ANCHORS: [&str; 2] = ["$anchor", "$dynamicAnchor"];

/// The named places of a schema.
#[derive(Debug, Default)]
pub(crate) struct Anchors {
    /// Pointers by name; `None` for a name that appears twice.
    pointers: HashMap<String, Option<String>>,
}

impl Anchors {
    /// All names in a schema, and in any other part of it that looks like one.
    pub(crate) fn of(root: &Value) -> Self {
        let mut anchors = Anchors::default();
        anchors.visit(root, "");
        anchors
    }

    fn visit(&mut self, value: &Value, at: &str) {
        match value {
            Value::Object(map) => {
                let names = ANCHORS
                    .iter()
                    .filter_map(|keyword| map.get(*keyword)?.as_str());
                for name in names {
                    self.insert(name, at);
                }
                let containers = map.iter().filter(|(_, part)| is_container(part));
                containers.for_each(|(key, part)| self.visit(part, &pointer::join(at, key)));
            }
            Value::Array(items) => {
                let containers = items
                    .iter()
                    .enumerate()
                    .filter(|(_, part)| is_container(part));
                containers.for_each(|(index, part)| self.visit(part, &format!("{at}/{index}")));
            }
            _ => {}
        }
    }

    /// Adds the name of the schema at a pointer; `false` if another schema has that name.
    pub(super) fn insert(&mut self, name: &str, at: &str) -> bool {
        let known = self
            .pointers
            .entry(name.to_owned())
            .or_insert_with(|| Some(at.to_owned()));
        let is_own = known.as_deref() == Some(at);
        if !is_own {
            *known = None;
        }
        is_own
    }

    /// The pointer of a reference's target; `None` if the target is outside the schema or missing.
    pub(crate) fn target(&self, reference: &str, root: &Value) -> Option<String> {
        // A reference without `#` at its start leaves the schema, and nothing is fetched.
        let fragment = pointer::from_fragment(reference.strip_prefix('#')?)?;
        if fragment.is_empty() || fragment.starts_with('/') {
            return root.pointer(&fragment).is_some().then_some(fragment);
        }
        self.pointers.get(&fragment).cloned().flatten()
    }
}

fn is_container(value: &Value) -> bool {
    value.is_object() || value.is_array()
}
