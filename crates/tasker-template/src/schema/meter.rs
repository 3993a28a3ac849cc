//! The cost of each place of a schema when the validator applies it to a value.
//!
//! The figures follow the validator's own loops: a comparison counts once per candidate, a hash
//! look-up by bytes. A step takes 10 to 50 ns of an optimised build.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::number::{self, Numeric};
use super::pattern::Effort;
use super::pointer;
use super::reference::REFERENCES;
use super::survey::Survey;

/// Steps to apply a schema to a value, besides its keywords.
const PLACE: u64 = 2;
/// The validator finds a string by its hash in an `enum` of more strings than this.
const HASHED_STRINGS: usize = 10;
/// Steps per KiB of text that is only scanned, for a length or a format.
const SCAN_PER_KIB: u64 = 200;
/// Steps per KiB of a text that must be a regular expression, which the validator parses.
const REGEX_FORMAT_PER_KIB: u64 = 20_000;

/// The costs of a schema.
#[derive(Debug)]
pub(super) struct Meter {
    pub nodes: Vec<PlaceCosts>,
}

/// The costs of one place.
#[derive(Debug, Default)]
pub(super) struct PlaceCosts {
    /// Steps per application, whatever the value.
    pub fixed: u64,
    /// Number of keywords that may report an error.
    pub keywords: u64,
    /// Steps per KiB of a string.
    pub text_per_kib: u64,
    pub numeric: Numeric,
    pub candidates: Option<Candidates>,
    pub unique: bool,
    /// The schemas for the same value.
    pub same: Vec<Same>,
    pub named: HashMap<String, usize>,
    pub patterns: Vec<(Effort, usize)>,
    pub additional: Option<usize>,
    pub property_names: Option<usize>,
    pub dependent: Vec<(String, usize)>,
    pub unevaluated_properties: Option<usize>,
    pub first_items: Vec<usize>,
    pub items: Option<usize>,
    pub contains: Option<usize>,
    pub unevaluated_items: Option<usize>,
}

/// A schema for the same value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Same {
    pub to: usize,
    pub kind: SameKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SameKind {
    /// `$ref` and its like.
    Reference,
    /// `anyOf` and `oneOf`: if no branch fits, the validator collects the errors of all branches,
    /// with copies of the values.
    Branch,
    /// `allOf`, `if`, `then`, `else`.
    Part,
    /// `not`, whose errors the validator does not collect.
    Not,
}

/// The values of an `enum` or a `const`.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Steps for a value of this kind, besides its own size.
    pub texts: u64,
    pub numbers: u64,
    pub lists: u64,
    pub maps: u64,
    /// Number of candidates with which a number is compared.
    pub compared_numbers: u64,
}

impl Meter {
    /// `survey` has visited every place of the schema `root`.
    pub fn of(root: &Value, survey: &Survey) -> Meter {
        let index: HashMap<&str, usize> = survey
            .places
            .iter()
            .enumerate()
            .map(|(index, place)| (place.pointer.as_str(), index))
            .collect();
        let nodes = survey.places.iter().map(|place| {
            let schema = root.pointer(&place.pointer).and_then(Value::as_object);
            // A boolean schema has no keywords to read.
            schema.map_or_else(PlaceCosts::trivial, |schema| {
                PlaceReader {
                    root,
                    survey,
                    index: &index,
                    at: &place.pointer,
                    schema,
                }
                .node()
            })
        });
        Meter {
            nodes: nodes.collect(),
        }
    }
}

impl PlaceCosts {
    fn trivial() -> PlaceCosts {
        PlaceCosts {
            fixed: 1,
            keywords: 1,
            ..PlaceCosts::default()
        }
    }

    /// Whether the validator must find out which parts other keywords have evaluated.
    pub fn marks(&self) -> bool {
        self.unevaluated_properties.is_some() || self.unevaluated_items.is_some()
    }
}

/// Reads one place.
struct PlaceReader<'s> {
    root: &'s Value,
    survey: &'s Survey,
    index: &'s HashMap<&'s str, usize>,
    at: &'s str,
    schema: &'s Map<String, Value>,
}

impl PlaceReader<'_> {
    fn node(&self) -> PlaceCosts {
        let schema = self.schema;
        // A list under a name, as in `dependentRequired`, is looped over as a whole, so its items
        // count beside the name.
        let members = |keyword: &str| match schema.get(keyword) {
            Some(Value::Array(items)) => items.len() as u64,
            Some(Value::Object(map)) => map
                .values()
                .map(|v| v.as_array().map_or(1, |v| 1 + v.len() as u64))
                .sum(),
            _ => 0,
        };
        let loops = [
            "required",
            "properties",
            "dependentRequired",
            "dependencies",
            "dependentSchemas",
        ];
        let keywords = schema.len() as u64;
        PlaceCosts {
            fixed: PLACE + keywords + loops.into_iter().map(members).sum::<u64>(),
            keywords: keywords + members("required"),
            text_per_kib: self.text_per_kib(),
            numeric: Numeric::of(schema),
            candidates: self.candidates(),
            unique: schema.get("uniqueItems") == Some(&Value::Bool(true)),
            same: self.same(),
            named: self.named("properties").into_iter().collect(),
            patterns: self
                .named("patternProperties")
                .into_iter()
                .map(|(pattern, to)| (self.survey.effort(&pattern), to))
                .collect(),
            additional: self.one("additionalProperties"),
            property_names: self.one("propertyNames"),
            // A list of names in `dependencies` is no place of the survey, so `named` leaves it
            // out.
            dependent: [self.named("dependentSchemas"), self.named("dependencies")].concat(),
            unevaluated_properties: self.one("unevaluatedProperties"),
            // The list form of `items` exists only in drafts without `prefixItems`, so one of both
            // is empty.
            first_items: [self.list("prefixItems"), self.list("items")].concat(),
            items: self.one("items").or_else(|| self.one("additionalItems")),
            contains: self.one("contains"),
            unevaluated_items: self.one("unevaluatedItems"),
        }
    }

    fn text_per_kib(&self) -> u64 {
        let scans = ["minLength", "maxLength"]
            .into_iter()
            .filter(|keyword| self.schema.contains_key(*keyword))
            .count();
        let pattern = self
            .schema
            .get("pattern")
            .and_then(Value::as_str)
            .map_or(0, |p| self.survey.effort(p).per_kib);
        let format = match self.schema.get("format").and_then(Value::as_str) {
            Some("regex") => REGEX_FORMAT_PER_KIB,
            Some(_) => SCAN_PER_KIB,
            None => 0,
        };
        // Counting characters costs a fraction of the check of a format.
        pattern
            .saturating_add(format)
            .saturating_add(SCAN_PER_KIB / 8 * scans as u64)
    }

    fn candidates(&self) -> Option<Candidates> {
        let mut found = Candidates::default();
        let listed = self
            .schema
            .get("enum")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        // One value of another kind makes the validator compare with each candidate in turn.
        let hashed = listed.len() > HASHED_STRINGS
            && listed
                .iter()
                .all(|value| value.is_string() || value.is_null());
        for value in listed.iter().chain(self.schema.get("const")) {
            let cost = comparison(value);
            match value {
                Value::String(_) if hashed => found.texts = 1,
                Value::String(_) => found.texts += cost,
                Value::Number(_) => {
                    found.numbers += cost;
                    found.compared_numbers += 1;
                }
                Value::Array(_) => found.lists += cost,
                Value::Object(_) => found.maps += cost,
                Value::Null | Value::Bool(_) => {}
            }
        }
        let all = listed.len() + usize::from(self.schema.contains_key("const"));
        // The validator also passes over each candidate of another kind.
        let passed = if hashed { 0 } else { all as u64 / 4 };
        [
            &mut found.texts,
            &mut found.numbers,
            &mut found.lists,
            &mut found.maps,
        ]
        .into_iter()
        .for_each(|cost| *cost += passed);
        (all > 0).then_some(found)
    }

    fn same(&self) -> Vec<Same> {
        // The survey has reported a reference without a target; here it costs nothing.
        let references = REFERENCES.iter().filter_map(|keyword| {
            let target = self
                .survey
                .target(self.schema.get(*keyword)?.as_str()?, self.root)?;
            Some(Same {
                to: *self.index.get(target.as_str())?,
                kind: SameKind::Reference,
            })
        });
        // A keyword holds a list or a single schema, so one of both is empty.
        let of = |keyword: &str, kind: SameKind| {
            let all = self.list(keyword).into_iter().chain(self.one(keyword));
            all.map(move |to| Same { to, kind }).collect::<Vec<_>>()
        };
        let mut same: Vec<Same> = references.collect();
        for (keyword, kind) in [
            ("allOf", SameKind::Part),
            ("anyOf", SameKind::Branch),
            ("oneOf", SameKind::Branch),
            ("if", SameKind::Part),
            ("then", SameKind::Part),
            ("else", SameKind::Part),
            ("not", SameKind::Not),
        ] {
            same.extend(of(keyword, kind));
        }
        same
    }

    fn place(&self, pointer: &str) -> Option<usize> {
        self.index.get(pointer).copied()
    }

    fn one(&self, keyword: &str) -> Option<usize> {
        self.schema
            .get(keyword)
            .filter(|value| value.is_object() || value.is_boolean())?;
        self.place(&pointer::join(self.at, keyword))
    }

    fn list(&self, keyword: &str) -> Vec<usize> {
        let count = self
            .schema
            .get(keyword)
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        let at = pointer::join(self.at, keyword);
        (0..count)
            .filter_map(|index| self.place(&format!("{at}/{index}")))
            .collect()
    }

    fn named(&self, keyword: &str) -> Vec<(String, usize)> {
        let at = pointer::join(self.at, keyword);
        let names = self
            .schema
            .get(keyword)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys);
        names
            .filter_map(|name| Some((name.clone(), self.place(&pointer::join(&at, name))?)))
            .collect()
    }
}

/// Steps to compare a value with `value`.
pub(super) fn comparison(value: &Value) -> u64 {
    match value {
        Value::Null | Value::Bool(_) => 1,
        Value::Number(number) => number::comparison(number),
        // Texts are compared in bulk, so a step covers many bytes.
        Value::String(text) => 1 + text.len() as u64 / 256,
        Value::Array(items) => items.iter().fold(1, |sum, item| sum + comparison(item)),
        Value::Object(map) => map.iter().fold(1, |sum, (key, item)| {
            sum + 2 + key.len() as u64 / 64 + comparison(item)
        }),
    }
}
