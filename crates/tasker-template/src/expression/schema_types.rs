//! Derives static types from JSON Schemas, before any value exists.
//!
//! A type may be too wide, but never too narrow: the check of an expression refuses only names and
//! comparisons that no valid document has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::types::{FieldTypes, Kinds, Listed, Type};
use crate::schema::{self, Anchors};

/// The most parts that are read of all schemas of one template, with their references followed; a
/// part beyond is typed as any value.
const MAX_PARTS: usize = 100_000;

/// Derives the types of the schemas of one template.
#[derive(Default)]
pub(crate) struct TypeReader {
    /// By the text of the schema: each environment has the same schemas again.
    known: HashMap<String, Type>,
    parts: usize,
}

impl TypeReader {
    /// The type of the values that fit a schema.
    pub fn of_schema(&mut self, schema: &Value) -> Type {
        let text = schema.to_string();
        if let Some(known) = self.known.get(&text) {
            return known.clone();
        }
        let Some(flat) = schema::flattened(schema) else {
            return Type::open();
        };
        let mut reader = SchemaReader {
            root: &flat,
            anchors: Anchors::of(&flat),
            parts: self.parts,
            open: BTreeSet::new(),
        };
        let found = reader.read(&flat);
        self.parts = reader.parts;
        self.known.insert(text, found.clone());
        found
    }

    /// The type of a context, which is always a map.
    pub fn of_context(&mut self, schema: Option<&Value>) -> Type {
        schema
            .map_or(Type::ANY, |schema| self.of_schema(schema))
            .restricted_to_maps()
    }
}

#[cfg(test)]
impl Type {
    pub(crate) fn of_schema(schema: &Value) -> Type {
        TypeReader::default().of_schema(schema)
    }

    pub(crate) fn of_context(schema: Option<&Value>) -> Type {
        TypeReader::default().of_context(schema)
    }
}

/// Reads one schema.
struct SchemaReader<'s> {
    root: &'s Value,
    anchors: Anchors,
    parts: usize,
    /// Pointers of the references that are being followed. A schema within itself is typed as any
    /// value, which ends the recursion.
    open: BTreeSet<String>,
}

impl<'s> SchemaReader<'s> {
    fn read(&mut self, schema: &'s Value) -> Type {
        self.parts += 1;
        // A part that is not read may describe any field.
        if self.parts > MAX_PARTS {
            return Type::open();
        }
        let Value::Object(schema) = schema else {
            return Type::ANY;
        };
        let mut found = self.own(schema);
        for part in self.referred(schema) {
            found = found.both(&part);
        }
        for part in self.all(schema, "allOf") {
            found = found.both(&part);
        }
        for word in ["anyOf", "oneOf"] {
            let parts = self.all(schema, word);
            if let Some(part) = parts.into_iter().reduce(|a, b| a.either(&b)) {
                found = found.both(&part);
            }
        }
        for part in self.sometimes(schema) {
            found = found.both(&part);
        }
        found
    }

    /// The schemas that apply to some values only: each field that they list may exist, so it is
    /// added as a field of any type.
    fn sometimes(&mut self, schema: &'s Map<String, Value>) -> Vec<Type> {
        let conditional = ["if", "then", "else"]
            .into_iter()
            .filter_map(|word| schema.get(word));
        let dependent = schema
            .get("dependentSchemas")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::values);
        let fields = conditional
            .chain(dependent)
            .filter_map(|part| self.read(part).fields);
        let of_any_type = |fields: Arc<FieldTypes>| {
            let names = fields.known.keys();
            Type {
                fields: Some(Arc::new(FieldTypes {
                    known: names.map(|name| (name.clone(), Type::ANY)).collect(),
                    others: fields.others.as_ref().map(|_| Type::ANY),
                })),
                ..Type::ANY
            }
        };
        fields.map(of_any_type).collect()
    }

    fn all(&mut self, schema: &'s Map<String, Value>, word: &str) -> Vec<Type> {
        let list = schema.get(word).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .map(|part| self.read(part))
            .collect()
    }

    fn referred(&mut self, schema: &'s Map<String, Value>) -> Vec<Type> {
        schema::REFERENCES
            .into_iter()
            .filter_map(|keyword| schema.get(keyword)?.as_str())
            .map(|reference| self.target(reference))
            .collect()
    }

    /// The type of a reference's target; any value with any fields if it is unknown.
    fn target(&mut self, reference: &str) -> Type {
        let Some(pointer) = self.anchors.target(reference, self.root) else {
            return Type::open();
        };
        let Some(target) = self.root.pointer(&pointer) else {
            return Type::open();
        };
        if !self.open.insert(pointer.clone()) {
            return Type::open();
        }
        let found = self.read(target);
        self.open.remove(&pointer);
        found
    }

    /// The type that the keywords of the schema itself describe, without its subschemas'
    /// references.
    fn own(&mut self, schema: &'s Map<String, Value>) -> Type {
        let kinds = match schema.get("type") {
            Some(Value::String(word)) => Kinds::of_word(word),
            Some(Value::Array(words)) => words
                .iter()
                .filter_map(Value::as_str)
                .map(Kinds::of_word)
                .fold(Kinds::NONE, Kinds::or),
            _ => Kinds::ANY,
        };
        let values = match (schema.get("const"), schema.get("enum")) {
            (Some(value), _) => Some(std::slice::from_ref(value)),
            (None, Some(Value::Array(values))) => Some(values.as_slice()),
            _ => None,
        };
        // A list is read again with each reference to it, as the parts of a schema are.
        self.parts += values.map_or(0, <[Value]>::len);
        let of_values = values.map(|values| {
            values
                .iter()
                .map(Kinds::of_value)
                .fold(Kinds::NONE, Kinds::or)
        });
        let item = match schema.get("items") {
            // Beside `prefixItems`, the schema describes only the items after the prefix.
            Some(items @ Value::Object(_)) if !schema.contains_key("prefixItems") => {
                Some(Arc::new(self.read(items)))
            }
            _ => None,
        };
        Type {
            kinds: kinds.and(of_values.unwrap_or(Kinds::ANY)),
            values: values.and_then(Listed::of).map(Arc::new),
            item,
            fields: self.fields(schema),
        }
    }

    /// A map with listed fields has no others, unless the schema allows them explicitly.
    fn fields(&mut self, schema: &'s Map<String, Value>) -> Option<Arc<FieldTypes>> {
        let listed = schema.get("properties").and_then(Value::as_object);
        let other = ["additionalProperties", "unevaluatedProperties"]
            .iter()
            .find_map(|word| schema.get(*word));
        let patterns = schema
            .get("patternProperties")
            .and_then(Value::as_object)
            .is_some_and(|map| !map.is_empty());
        if listed.is_none_or(Map::is_empty) && matches!(other, None | Some(Value::Bool(true))) {
            return None;
        }
        let mut known: BTreeMap<String, Type> = listed
            .into_iter()
            .flatten()
            .map(|(name, part)| (name.clone(), self.read(part)))
            .collect();
        let required = schema.get("required").and_then(Value::as_array);
        self.parts += required.map_or(0, Vec::len);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            // A required field exists, although no schema describes it.
            known.entry(name.to_owned()).or_insert(Type::ANY);
        }
        let others = match other {
            Some(Value::Bool(false)) | None => patterns.then_some(Type::ANY),
            Some(Value::Bool(true)) => Some(Type::ANY),
            // The name may match a pattern, whose schema then applies instead.
            Some(_) if patterns => Some(Type::ANY),
            Some(part) => Some(self.read(part)),
        };
        Some(Arc::new(FieldTypes { known, others }))
    }
}
