//! The static types of expressions, derived from JSON Schemas before any value exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::text::shorten;

/// The most parts of a schema that are read; a part beyond is typed as any value.
const MAX_PARTS: usize = 20_000;
/// The most allowed values that a message lists.
const MAX_NAMED: usize = 8;

/// A set of kinds of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub const NONE: Kinds = Kinds(0);
    pub const NULL: Kinds = Kinds(1);
    pub const BOOL: Kinds = Kinds(1 << 1);
    pub const INT: Kinds = Kinds(1 << 2);
    pub const DOUBLE: Kinds = Kinds(1 << 3);
    pub const TEXT: Kinds = Kinds(1 << 4);
    pub const LIST: Kinds = Kinds(1 << 5);
    pub const MAP: Kinds = Kinds(1 << 6);
    pub const NUMBER: Kinds = Kinds(Self::INT.0 | Self::DOUBLE.0);
    pub const ANY: Kinds = Kinds(0x7f);

    pub const fn or(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    pub fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 & other.0)
    }

    pub fn has(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether this is a subset of `other`.
    pub fn within(self, other: Kinds) -> bool {
        self.0 & !other.0 == 0
    }

    fn of_value(value: &Value) -> Kinds {
        match value {
            Value::Null => Kinds::NULL,
            Value::Bool(_) => Kinds::BOOL,
            // JSON does not distinguish 1 from 1.0, so a listed number may arrive as either kind.
            Value::Number(_) => Kinds::NUMBER,
            Value::String(_) => Kinds::TEXT,
            Value::Array(_) => Kinds::LIST,
            Value::Object(_) => Kinds::MAP,
        }
    }

    /// The kinds of one word of a schema's `type`.
    fn of_word(word: &str) -> Kinds {
        match word {
            "null" => Kinds::NULL,
            "boolean" => Kinds::BOOL,
            "integer" => Kinds::INT,
            "number" => Kinds::NUMBER,
            "string" => Kinds::TEXT,
            "array" => Kinds::LIST,
            "object" => Kinds::MAP,
            _ => Kinds::NONE,
        }
    }

    /// The kinds in words, for an error message.
    pub fn describe(self) -> String {
        const WORDS: [(Kinds, &str); 7] = [
            (Kinds::BOOL, "true or false"),
            (Kinds::NUMBER, "a number"),
            (Kinds::INT, "an integer"),
            (Kinds::DOUBLE, "a number with a fraction"),
            (Kinds::TEXT, "a string"),
            (Kinds::LIST, "a list"),
            (Kinds::MAP, "a map"),
        ];
        if self == Kinds::ANY {
            return "any value".into();
        }
        // The wider kind comes first in the list, so that "a number" is not an integer or a
        // fraction.
        let (mut left, mut words) = (self, Vec::new());
        for (kinds, word) in WORDS.into_iter().filter(|(kinds, _)| kinds.within(self)) {
            if left.has(kinds) {
                words.push(word);
                left = Kinds(left.0 & !kinds.0);
            }
        }
        if left.has(Kinds::NULL) {
            words.push("null");
        }
        words.join(" or ")
    }
}

/// The type of a value: its possible kinds, and the known types of its parts.
#[derive(Debug, Clone)]
pub struct Type {
    pub(super) kinds: Kinds,
    /// The only possible values, if the schema lists them.
    pub(super) values: Option<Arc<Vec<Value>>>,
    /// The type of a list's items.
    pub(super) item: Option<Arc<Type>>,
    /// The types of a map's fields; `None` if no schema describes them.
    pub(super) fields: Option<Arc<Fields>>,
}

/// The fields of a map.
#[derive(Debug, Clone, Default)]
pub(super) struct Fields {
    pub known: BTreeMap<String, Type>,
    /// The type of all other fields; `None` if there are none or the schema does not mention them.
    pub others: Option<Type>,
}

impl Type {
    /// Any value.
    pub(super) const ANY: Type = Type {
        kinds: Kinds::ANY,
        values: None,
        item: None,
        fields: None,
    };

    pub(super) fn of(kinds: Kinds) -> Type {
        Type { kinds, ..Type::ANY }
    }

    pub(super) fn list(item: Type) -> Type {
        Type {
            item: Some(Arc::new(item)),
            ..Type::of(Kinds::LIST)
        }
    }

    /// A map of exactly these fields.
    pub(super) fn record(known: BTreeMap<String, Type>) -> Type {
        Type {
            fields: Some(Arc::new(Fields {
                known,
                others: None,
            })),
            ..Type::of(Kinds::MAP)
        }
    }

    pub(super) fn constant(value: &Value) -> Type {
        Type {
            values: Some(Arc::new(vec![value.clone()])),
            ..Type::of(Kinds::of_value(value))
        }
    }

    /// The type of the values that fit a JSON Schema.
    pub fn of_schema(schema: &Value) -> Type {
        let schema = crate::schema::flattened(schema);
        Reader {
            root: &schema,
            parts: 0,
            open: BTreeSet::new(),
        }
        .read(&schema)
    }

    /// The type of a context, which is always a map.
    pub fn of_context(schema: Option<&Value>) -> Type {
        schema
            .map_or(Type::ANY, Type::of_schema)
            .both(&Type::of(Kinds::MAP))
    }

    /// The same type, or null.
    pub(super) fn nullable(self) -> Type {
        // The list of values need not contain null, so it is dropped.
        let values = None;
        Type {
            kinds: self.kinds.or(Kinds::NULL),
            values,
            ..self
        }
    }

    pub(super) fn item(&self) -> Type {
        self.item.as_deref().cloned().unwrap_or(Type::ANY)
    }

    /// The type of a value that has both types.
    fn both(mut self, other: &Type) -> Type {
        self.kinds = self.kinds.and(other.kinds);
        // One of the two lists suffices: it may be too wide, which only makes the check more
        // lenient.
        self.values = self.values.or_else(|| other.values.clone());
        self.item = self.item.or_else(|| other.item.clone());
        match (&mut self.fields, &other.fields) {
            (Some(own), Some(more)) => Arc::make_mut(own).join(more, Type::both),
            (own @ None, more) => own.clone_from(more),
            (Some(_), None) => {}
        }
        self
    }

    /// The type of a value that has either type.
    pub(super) fn either(mut self, other: &Type) -> Type {
        match (&mut self.fields, &other.fields) {
            (Some(own), Some(more)) => Arc::make_mut(own).join(more, Type::either),
            // A side that is never a map does not restrict the fields; a map without known fields
            // permits any.
            (Some(_), None) if !other.kinds.has(Kinds::MAP) => {}
            (own, more) if !self.kinds.has(Kinds::MAP) => own.clone_from(more),
            (own, _) => *own = None,
        }
        match (&mut self.item, &other.item) {
            (Some(own), Some(more)) => *own = Arc::new(own.as_ref().clone().either(more)),
            // As for the fields.
            (Some(_), None) if !other.kinds.has(Kinds::LIST) => {}
            (own, more) if !self.kinds.has(Kinds::LIST) => own.clone_from(more),
            (own, _) => *own = None,
        }
        match (&mut self.values, &other.values) {
            (Some(own), Some(more)) => Arc::make_mut(own).extend(more.iter().cloned()),
            (own, _) => *own = None,
        }
        self.kinds = self.kinds.or(other.kinds);
        self
    }

    /// The known values for an error message, separated by commas; empty if they are not known.
    pub(super) fn named_values(&self) -> String {
        let Some(values) = &self.values else {
            return String::new();
        };
        let more = if values.len() > MAX_NAMED {
            ", …"
        } else {
            ""
        };
        let named: Vec<String> = values
            .iter()
            .take(MAX_NAMED)
            .map(|value| shorten(&value.to_string()))
            .collect();
        format!("{}{more}", named.join(", "))
    }
}

impl Fields {
    fn join(&mut self, other: &Fields, join: fn(Type, &Type) -> Type) {
        // A field that only one side lists counts as known, since the check is to refuse only names
        // that no part of the schema mentions.
        for (name, new) in &other.known {
            let old = self.known.remove(name);
            self.known.insert(
                name.clone(),
                old.map_or_else(|| new.clone(), |old| join(old, new)),
            );
        }
        self.others = match (self.others.take(), &other.others) {
            (Some(own), Some(more)) => Some(join(own, more)),
            (own, more) => own.or_else(|| more.clone()),
        };
    }
}

struct Reader<'s> {
    root: &'s Value,
    parts: usize,
    /// The references that are being followed. A schema within itself is typed as any value, which
    /// ends the recursion.
    open: BTreeSet<&'s str>,
}

impl<'s> Reader<'s> {
    fn read(&mut self, schema: &'s Value) -> Type {
        self.parts += 1;
        let Value::Object(schema) = schema else {
            return Type::ANY;
        };
        if self.parts > MAX_PARTS {
            return Type::ANY;
        }
        let mut found = self.own(schema);
        for part in self
            .referred(schema)
            .into_iter()
            .chain(self.all(schema, &["allOf"]))
        {
            found = found.both(&part);
        }
        for word in ["anyOf", "oneOf"] {
            let parts = self.all(schema, &[word]);
            if let Some(part) = parts.into_iter().reduce(|a, b| a.either(&b)) {
                found = found.both(&part);
            }
        }
        // These schemas apply to some values only, but each field that they list may exist, so it
        // is added as a field of any type.
        let mut sometimes: Vec<&Value> = ["if", "then", "else"]
            .iter()
            .filter_map(|word| schema.get(*word))
            .collect();
        sometimes.extend(
            schema
                .get("dependentSchemas")
                .and_then(Value::as_object)
                .into_iter()
                .flat_map(Map::values),
        );
        for part in sometimes {
            // Without known fields, each field is of any type already.
            let Some(fields) = self.read(part).fields.filter(|_| found.fields.is_some()) else {
                continue;
            };
            let names = fields
                .known
                .keys()
                .map(|name| (name.clone(), Type::ANY))
                .collect();
            let part = Type {
                fields: Some(Arc::new(Fields {
                    known: names,
                    others: None,
                })),
                ..Type::ANY
            };
            found = found.both(&part);
        }
        found
    }

    fn all(&mut self, schema: &'s Map<String, Value>, words: &[&str]) -> Vec<Type> {
        let lists = words
            .iter()
            .filter_map(|word| schema.get(*word)?.as_array());
        lists.flatten().map(|part| self.read(part)).collect()
    }

    fn referred(&mut self, schema: &'s Map<String, Value>) -> Option<Type> {
        let reference = schema.get("$ref")?.as_str()?;
        let target = self.root.pointer(reference.strip_prefix('#')?)?;
        if !self.open.insert(reference) {
            return None;
        }
        let found = self.read(target);
        self.open.remove(reference);
        Some(found)
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
        let values: Option<Arc<Vec<Value>>> = match (schema.get("const"), schema.get("enum")) {
            (Some(value), _) => Some(Arc::new(vec![value.clone()])),
            (None, Some(Value::Array(values))) => Some(Arc::new(values.clone())),
            _ => None,
        };
        let of_values = values.as_ref().map(|values| {
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
            values,
            item,
            fields: self.fields(schema),
        }
    }

    /// A map with listed fields has no others, unless the schema allows them explicitly.
    fn fields(&mut self, schema: &'s Map<String, Value>) -> Option<Arc<Fields>> {
        let listed = schema.get("properties").and_then(Value::as_object);
        let other = ["additionalProperties", "unevaluatedProperties"]
            .iter()
            .find_map(|word| schema.get(*word));
        let patterns = schema
            .get("patternProperties")
            .and_then(Value::as_object)
            .is_some_and(|map| !map.is_empty());
        // Past the bound of parts, an incomplete list would refuse fields that exist.
        if listed.is_none_or(Map::is_empty) && matches!(other, None | Some(Value::Bool(true)))
            || self.parts > MAX_PARTS
        {
            return None;
        }
        let mut known: BTreeMap<String, Type> = listed
            .into_iter()
            .flatten()
            .map(|(name, part)| (name.clone(), self.read(part)))
            .collect();
        for name in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
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
        Some(Arc::new(Fields { known, others }))
    }
}
