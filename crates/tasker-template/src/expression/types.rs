//! The static types of expressions.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::values::is_integer;
use crate::text::shorten;

/// The most allowed values of a type that an expression joins from two types, and the most that it
/// searches among those of another.
const MAX_JOINED: usize = 100;
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

    pub fn of_value(value: &Value) -> Kinds {
        match value {
            Value::Null => Kinds::NULL,
            Value::Bool(_) => Kinds::BOOL,
            // By its value: 1.0 is an integer, in JSON Schema and in an expression.
            Value::Number(number) if is_integer(number) => Kinds::INT,
            Value::Number(_) => Kinds::DOUBLE,
            Value::String(_) => Kinds::TEXT,
            Value::Array(_) => Kinds::LIST,
            Value::Object(_) => Kinds::MAP,
        }
    }

    /// The kinds of one word of a schema's `type`.
    pub fn of_word(word: &str) -> Kinds {
        match word {
            "null" => Kinds::NULL,
            "boolean" => Kinds::BOOL,
            // Also a value such as 1.0, which `values::to_cel` makes an integer.
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
    pub(super) values: Option<Arc<Listed>>,
    /// The type of a list's items.
    pub(super) item: Option<Arc<Type>>,
    /// The types of a map's fields; `None` if no schema describes them.
    pub(super) fields: Option<Arc<FieldTypes>>,
}

/// The part of a union, such as the type of the items of a list, that both sides have: a side that
/// is never of this `kind` does not restrict the part, and a side without a known part permits any.
fn common<T>(
    own: Option<Arc<T>>,
    own_kinds: Kinds,
    other: Option<&Arc<T>>,
    other_kinds: Kinds,
    kind: Kinds,
) -> Option<Arc<T>> {
    match (own_kinds.has(kind), other_kinds.has(kind)) {
        (_, false) => own,
        (false, true) => other.cloned(),
        (true, true) => own.filter(|own| other.is_some_and(|other| Arc::ptr_eq(own, other))),
    }
}

/// The values that a schema lists, as JSON texts.
#[derive(Debug, Clone, Default)]
pub(super) struct Listed {
    /// In the order of the schema.
    texts: Vec<String>,
    known: HashSet<String>,
}

impl Listed {
    /// `None` if a value can equal another one with a different text: numbers (1 and 1.0), maps and
    /// lists.
    pub fn of(values: &[Value]) -> Option<Listed> {
        let has_one_text =
            |value: &Value| value.is_string() || value.is_boolean() || value.is_null();
        values.iter().all(has_one_text).then(|| {
            let mut listed = Listed::default();
            values
                .iter()
                .for_each(|value| listed.add(value.to_string()));
            listed
        })
    }

    pub fn len(&self) -> usize {
        self.texts.len()
    }

    fn add(&mut self, text: String) {
        if self.known.insert(text.clone()) {
            self.texts.push(text);
        }
    }

    fn extend(&mut self, other: &Listed) {
        other.texts.iter().for_each(|text| self.add(text.clone()));
    }

    /// Whether the lists have no common value. Two long ones are not compared: each expression may
    /// compare them again.
    fn excludes(&self, other: &Listed) -> bool {
        let (fewer, more) = if self.len() <= other.len() {
            (self, other)
        } else {
            (other, self)
        };
        fewer.len() <= MAX_JOINED && !fewer.texts.iter().any(|text| more.known.contains(text))
    }
}

/// The fields of a map.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldTypes {
    pub known: BTreeMap<String, Type>,
    /// The type of all other fields; `None` if there are none or the schema does not mention them.
    pub others: Option<Type>,
}

/// Combines the types of a value that has both, or either.
type Combine = fn(Type, &Type) -> Type;

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
            fields: Some(Arc::new(FieldTypes {
                known,
                others: None,
            })),
            ..Type::of(Kinds::MAP)
        }
    }

    pub(super) fn constant(value: &Value) -> Type {
        Type {
            values: Listed::of(std::slice::from_ref(value)).map(Arc::new),
            ..Type::of(Kinds::of_value(value))
        }
    }

    /// Any value, with any fields: unlike [`Type::ANY`], also beside a schema that lists its own
    /// fields.
    pub(super) fn open() -> Type {
        Type {
            fields: Some(Arc::new(FieldTypes {
                known: BTreeMap::new(),
                others: Some(Type::ANY),
            })),
            ..Type::ANY
        }
    }

    /// The type of a value that has this type and is a map.
    pub(super) fn restricted_to_maps(self) -> Type {
        self.both(&Type::of(Kinds::MAP))
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
    pub(super) fn both(mut self, other: &Type) -> Type {
        self.kinds = self.kinds.and(other.kinds);
        // One of the two lists suffices: it may be too wide, which only makes the check more
        // lenient.
        self.values = self.values.or_else(|| other.values.clone());
        self.item = match (self.item.take(), &other.item) {
            (Some(own), Some(more)) => Some(Arc::new(own.as_ref().clone().both(more))),
            (own, more) => own.or_else(|| more.clone()),
        };
        match (&mut self.fields, &other.fields) {
            (Some(own), Some(more)) => Arc::make_mut(own).both(more),
            (own @ None, more) => own.clone_from(more),
            (Some(_), None) => {}
        }
        self
    }

    /// The type of a value that has either type.
    pub(super) fn either(mut self, other: &Type) -> Type {
        match (&mut self.fields, &other.fields) {
            (Some(own), Some(more)) => Arc::make_mut(own).either(more),
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
            (Some(own), Some(more)) => Arc::make_mut(own).extend(more),
            (own, _) => *own = None,
        }
        self.kinds = self.kinds.or(other.kinds);
        self
    }

    /// As [`Type::either`], at a constant cost: an expression may join the types of large schemas
    /// any number of times. Parts that differ are of any type.
    pub(super) fn union(self, other: &Type) -> Type {
        let kinds = self.kinds.or(other.kinds);
        let values = match (self.values, &other.values) {
            (Some(mut own), Some(more)) if own.len() + more.len() <= MAX_JOINED => {
                Arc::make_mut(&mut own).extend(more);
                Some(own)
            }
            _ => None,
        };
        Type {
            values,
            item: common(
                self.item,
                self.kinds,
                other.item.as_ref(),
                other.kinds,
                Kinds::LIST,
            ),
            fields: common(
                self.fields,
                self.kinds,
                other.fields.as_ref(),
                other.kinds,
                Kinds::MAP,
            ),
            kinds,
        }
    }

    /// Whether no value of this type equals a value of the other, as far as both list their values.
    pub(super) fn excludes(&self, other: &Type) -> bool {
        let (Some(own), Some(more)) = (&self.values, &other.values) else {
            return false;
        };
        own.excludes(more)
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
            .texts
            .iter()
            .take(MAX_NAMED)
            .map(|text| shorten(text))
            .collect();
        format!("{}{more}", named.join(", "))
    }
}

impl FieldTypes {
    /// The fields of a map that has both. A field that only one side lists counts as known, since
    /// the check is to refuse only names that no part of the schema mentions.
    fn both(&mut self, other: &FieldTypes) {
        for (name, new) in &other.known {
            let old = self.known.remove(name);
            let joined = old.map_or_else(|| new.clone(), |old| old.both(new));
            self.known.insert(name.clone(), joined);
        }
        self.join_others(other, Type::both);
    }

    /// The fields of a map that has either.
    fn either(&mut self, other: &FieldTypes) {
        // Where the other side allows fields that it does not list, a field may have any type.
        if other.others.is_some() {
            for (name, own) in &mut self.known {
                if !other.known.contains_key(name) {
                    *own = Type::ANY;
                }
            }
        }
        for (name, new) in &other.known {
            let joined = match self.known.remove(name) {
                Some(old) => old.either(new),
                None if self.others.is_some() => Type::ANY,
                None => new.clone(),
            };
            self.known.insert(name.clone(), joined);
        }
        self.join_others(other, Type::either);
    }

    fn join_others(&mut self, other: &FieldTypes, join: Combine) {
        self.others = match (self.others.take(), &other.others) {
            (Some(own), Some(more)) => Some(join(own, more)),
            (own, more) => own.or_else(|| more.clone()),
        };
    }
}
