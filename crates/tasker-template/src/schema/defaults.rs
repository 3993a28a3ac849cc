//! Adds the `default`s of a schema to a value.

use serde_json::{Map, Value};

use super::keywords::{self, Role, Shape};
use super::survey::{REFERENCES, Survey};
use crate::budget::{Budget, TooCostly};

/// Steps to find the defaults of one schema.
const PLACE: u64 = 12;
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
            Some(schema) if !self.survey.defaults.is_empty() => self.apply(schema, value, 0),
            _ => Ok(false),
        }
    }

    fn apply(
        &mut self,
        schema: &'s Value,
        value: &mut Value,
        depth: usize,
    ) -> Result<bool, FillError> {
        // Per visit and not per schema: a long list visits the schema of its items again and again.
        self.budget.spend(PLACE)?;
        let Value::Object(schema) = schema else {
            return Ok(false);
        };
        // A default inside a recursive schema may contain its own property, without an end.
        if depth > MAX_DEPTH {
            return Err(FillError::Depth);
        }
        let mut added = false;
        for other in self.beside(schema) {
            added |= self.apply(other, value, depth)?;
        }
        // For these drafts the keywords beside `$ref` do not exist.
        if self.is_only_ref(schema) {
            return Ok(added);
        }
        match value {
            Value::Object(object) => added |= self.properties(schema, object, depth)?,
            Value::Array(items) => added |= self.items(schema, items, depth)?,
            _ => {}
        }
        Ok(added)
    }

    fn properties(
        &mut self,
        schema: &'s Map<String, Value>,
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<bool, FillError> {
        let Some(Value::Object(properties)) = schema.get("properties") else {
            return Ok(false);
        };
        self.budget.spend(2 * properties.len() as u64)?;
        let mut added = false;
        for (name, property) in properties {
            if !object.contains_key(name)
                && let Some(default) = self.default_of(property)?
            {
                // Before the copy, since a default may be large.
                self.pay(name, default)?;
                object.insert(name.clone(), default.clone());
                added = true;
            }
            // Also into a default that was just added: its own properties may be missing.
            if let Some(value) = object.get_mut(name) {
                added |= self.apply(property, value, depth + 1)?;
            }
        }
        Ok(added)
    }

    /// `prefixItems` and `items`, or the list form of `items` and `additionalItems` in the older
    /// drafts.
    fn items(
        &mut self,
        schema: &'s Map<String, Value>,
        items: &mut [Value],
        depth: usize,
    ) -> Result<bool, FillError> {
        // Only the older drafts read a list under `items` as one schema for each position.
        let old_form =
            keywords::shape("items", self.survey.draft) == Some(Shape::OneOrList(Role::Item));
        let (first, rest) = match schema.get("items") {
            Some(Value::Array(first)) if old_form => {
                (first.as_slice(), schema.get("additionalItems"))
            }
            rest => (
                schema
                    .get("prefixItems")
                    .and_then(Value::as_array)
                    .map_or(&[][..], Vec::as_slice),
                rest,
            ),
        };
        let mut added = false;
        for (index, value) in items.iter_mut().enumerate() {
            if let Some(item) = first.get(index).or(rest) {
                added |= self.apply(item, value, depth + 1)?;
            }
        }
        Ok(added)
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
        for other in self.beside(schema) {
            if let Some(default) = self.default_of(other)? {
                return Ok(Some(default));
            }
        }
        Ok(None)
    }

    /// The schemas that apply to the same value unconditionally. They contain no loops, since
    /// compilation refuses those.
    fn beside(&self, schema: &'s Map<String, Value>) -> Vec<&'s Value> {
        let reference = |keyword: &&str| {
            let target = self
                .survey
                .target(schema.get(*keyword)?.as_str()?, self.root)?;
            self.root.pointer(&target)
        };
        let mut beside: Vec<&Value> = REFERENCES.iter().filter_map(reference).collect();
        if let Some(Value::Array(all)) = schema.get("allOf").filter(|_| !self.is_only_ref(schema)) {
            beside.extend(all);
        }
        beside
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
