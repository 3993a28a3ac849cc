//! Adds the `default`s of a schema to a value.
//!
//! Several schemas may describe one value: a schema, the target of its reference, and the parts of
//! its `allOf`, recursively. Where more than one of them has a default for the same property, the
//! outer one applies: the schema's own, then that of the reference, then those of `allOf` in their
//! order. So a schema that refers to a general one can have defaults of its own. Schemas that apply
//! only under a condition, such as `anyOf` and `then`, add no defaults.

use serde_json::{Map, Value};

use super::keywords::{self, Role, Shape};
use super::reference::REFERENCES;
use super::survey::Survey;
use crate::budget::{Budget, TooCostly};

/// Steps to find the defaults of one schema.
const PLACE: u64 = 12;
/// Bytes of a reference that cost as much as one step.
const REFERENCE_BYTES_PER_STEP: usize = 16;
/// The most text that may be added to one value, in bytes of JSON.
pub const MAX_ADDED_BYTES: usize = 1024 * 1024;
/// Largest depth of a completed value: the depth allowed to a client's document, doubled to leave
/// room for additions.
const MAX_DEPTH: usize = 2 * crate::json_text::MAX_DEPTH;

/// The defaults would exceed a bound.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FillError {
    #[error("the schema's defaults add more than {MAX_ADDED_BYTES} bytes")]
    Bytes,
    #[error("the schema's defaults are nested more than {MAX_DEPTH} levels deep")]
    Depth,
    #[error("{0}")]
    TooCostly(#[from] TooCostly),
}

/// Fills one value.
pub(super) struct Filler<'s> {
    root: &'s Value,
    survey: &'s Survey,
    budget: &'s Budget,
    bytes_left: usize,
}

impl<'s> Filler<'s> {
    pub fn new(root: &'s Value, survey: &'s Survey, budget: &'s Budget) -> Self {
        Filler {
            root,
            survey,
            budget,
            bytes_left: MAX_ADDED_BYTES,
        }
    }

    /// Adds the defaults of the schema at `pointer` to `value`; `true` if any was added.
    pub fn fill(mut self, pointer: &str, value: &mut Value) -> Result<bool, FillError> {
        match self.root.pointer(pointer) {
            Some(schema) if !self.survey.defaults.is_empty() => self.apply(&[schema], value, 0),
            _ => Ok(false),
        }
    }

    /// Applies the schemas of one value, in the order of precedence.
    ///
    /// All of them at once: a default that one schema adds may be an object whose properties have
    /// their defaults in another.
    fn apply(
        &mut self,
        schemas: &[&'s Value],
        value: &mut Value,
        depth: usize,
    ) -> Result<bool, FillError> {
        // A default inside a recursive schema may contain its own property, without an end.
        if depth > MAX_DEPTH {
            return Err(FillError::Depth);
        }
        let mut all = Vec::new();
        for schema in schemas {
            self.expand(schema, &mut all)?;
        }
        match value {
            Value::Object(object) => self.properties(&all, object, depth),
            Value::Array(items) => self.items(&all, items, depth),
            _ => Ok(false),
        }
    }

    /// The schema and those beside it, in the order of precedence.
    fn expand(
        &mut self,
        schema: &'s Value,
        all: &mut Vec<&'s Map<String, Value>>,
    ) -> Result<(), FillError> {
        // Per visit and not per schema: a long list visits the schema of its items again and again.
        self.budget.spend(PLACE)?;
        let Value::Object(schema) = schema else {
            return Ok(());
        };
        // For these drafts the keywords beside `$ref` do not exist.
        if !self.is_only_ref(schema) {
            all.push(schema);
        }
        for other in self.beside(schema)? {
            self.expand(other, all)?;
        }
        Ok(())
    }

    fn properties(
        &mut self,
        schemas: &[&'s Map<String, Value>],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<bool, FillError> {
        let all: Vec<&'s Map<String, Value>> = schemas
            .iter()
            .filter_map(|schema| schema.get("properties")?.as_object())
            .collect();
        let mut added = false;
        for properties in &all {
            self.budget.spend(2 * properties.len() as u64)?;
            for (name, property) in *properties {
                if !object.contains_key(name)
                    && let Some(default) = self.default_of(property)?
                {
                    // Before the copy, since a default may be large.
                    self.pay(name, default)?;
                    object.insert(name.clone(), default.clone());
                    added = true;
                }
            }
        }
        self.budget
            .spend((object.len() as u64).saturating_mul(all.len() as u64))?;
        // Also into a default that was just added: its own properties may be missing.
        for (name, value) in object {
            let of_property: Vec<&Value> = all
                .iter()
                .filter_map(|properties| properties.get(name))
                .collect();
            if !of_property.is_empty() {
                added |= self.apply(&of_property, value, depth + 1)?;
            }
        }
        Ok(added)
    }

    fn items(
        &mut self,
        schemas: &[&'s Map<String, Value>],
        items: &mut [Value],
        depth: usize,
    ) -> Result<bool, FillError> {
        let mut added = false;
        for (index, value) in items.iter_mut().enumerate() {
            let of_item: Vec<&Value> = schemas
                .iter()
                .filter_map(|schema| self.item(schema, index))
                .collect();
            if !of_item.is_empty() {
                added |= self.apply(&of_item, value, depth + 1)?;
            }
        }
        Ok(added)
    }

    /// The schema of an item: `prefixItems` and `items`, or the list form of `items` and
    /// `additionalItems` in the older drafts.
    fn item(&self, schema: &'s Map<String, Value>, index: usize) -> Option<&'s Value> {
        // Only the older drafts read a list under `items` as one schema for each position.
        let old_form =
            keywords::shape("items", self.survey.draft) == Some(Shape::OneOrList(Role::Item));
        let (first, rest) = match schema.get("items") {
            Some(Value::Array(first)) if old_form => (Some(first), schema.get("additionalItems")),
            rest => (schema.get("prefixItems").and_then(Value::as_array), rest),
        };
        first.and_then(|first| first.get(index)).or(rest)
    }

    /// The schema's own default, or else that of a schema that applies to the same value.
    fn default_of(&mut self, schema: &'s Value) -> Result<Option<&'s Value>, FillError> {
        self.budget.spend(PLACE)?;
        let Value::Object(schema) = schema else {
            return Ok(None);
        };
        if let Some(default) = schema.get("default").filter(|_| !self.is_only_ref(schema)) {
            return Ok(Some(default));
        }
        for other in self.beside(schema)? {
            if let Some(default) = self.default_of(other)? {
                return Ok(Some(default));
            }
        }
        Ok(None)
    }

    /// The schemas that apply to the same value unconditionally. They contain no loops, since
    /// compilation refuses those.
    fn beside(&self, schema: &'s Map<String, Value>) -> Result<Vec<&'s Value>, TooCostly> {
        let references = REFERENCES
            .iter()
            .filter_map(|keyword| schema.get(*keyword)?.as_str());
        let mut beside = Vec::new();
        for reference in references {
            // Each visit decodes the reference and follows its pointer.
            self.budget
                .spend((reference.len() / REFERENCE_BYTES_PER_STEP) as u64)?;
            let target = self.survey.target(reference, self.root);
            beside.extend(target.and_then(|target| self.root.pointer(&target)));
        }
        if let Some(Value::Array(all)) = schema.get("allOf").filter(|_| !self.is_only_ref(schema)) {
            beside.extend(all);
        }
        Ok(beside)
    }

    fn is_only_ref(&self, schema: &Map<String, Value>) -> bool {
        self.survey.ref_hides_siblings() && schema.contains_key("$ref")
    }

    fn pay(&mut self, name: &str, default: &Value) -> Result<(), FillError> {
        // Three passes: to measure the default, to copy it, and to write it into the text.
        self.budget.spend(3 * super::meter::comparison(default))?;
        let bytes = name.len() + default.to_string().len();
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(FillError::Bytes)?;
        Ok(())
    }
}
