//! Counts the cost of applying a schema to a value, before the validator does so.
//!
//! The count visits the same pairs of place and value as the validator, and takes the cost of each
//! off the budget, so that it stops as soon as the budget is spent.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value};

use super::meter::{Meter, PlaceCosts, Same, SameKind, comparison};
use super::number;
use super::pattern::per_kib;
use crate::budget::{Budget, TooCostly};

/// Steps to build one error: its place and its message.
const ERROR: u64 = 40;
/// Bytes of an error's pointer that cost as much as one step.
const POINTER_BYTES_PER_STEP: usize = 256;
/// The validator searches lists up to this length for equal items pair by pair, longer ones by
/// hash.
const PAIRWISE_ITEMS: usize = 15;

type Counted = Result<(), TooCostly>;

/// The result that the validator is to return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether the value fits.
    Fits,
    /// The first error.
    FirstError,
    /// All errors. Those below `anyOf` and `oneOf` hold copies of the values.
    Errors { copies: bool },
}

/// Takes the most steps that the answer for the schema at a place can cost off the budget.
pub(super) fn count(
    meter: &Meter,
    place: usize,
    value: &Value,
    question: Question,
    budget: &Budget,
) -> Counted {
    let walk = Walk {
        meter,
        budget,
        path: Cell::new(0),
    };
    walk.visit(place, value, question)
}

struct Walk<'w> {
    meter: &'w Meter,
    budget: &'w Budget,
    /// Bytes of the pointer of the current value, which each error of it holds.
    path: Cell<usize>,
}

/// Remaining work for the current value.
#[derive(Debug, Clone, Copy)]
enum Task {
    /// Apply the schema at a place.
    Apply(usize, Question),
    /// Find out which parts the schema at a place has evaluated.
    Mark(usize),
}

impl Walk<'_> {
    /// Recursion follows only the depth of the value; the schemas for the same value are in a list,
    /// so the stack is bounded by the document's depth.
    fn visit(&self, place: usize, value: &Value, question: Question) -> Counted {
        let mut open = Vec::new();
        let mut next = Some(Task::Apply(place, question));
        while let Some(task) = next {
            match task {
                Task::Apply(place, question) => self.apply(place, value, question, &mut open)?,
                Task::Mark(place) => self.mark(place, value, &mut open)?,
            }
            next = open.pop();
        }
        Ok(())
    }

    /// As [`Walk::visit`], for the value of a property.
    fn property(&self, place: usize, name: &str, value: &Value, question: Question) -> Counted {
        let path = self.path.get();
        self.path.set(path + 1 + name.len());
        self.visit(place, value, question)?;
        self.path.set(path);
        Ok(())
    }

    fn apply(
        &self,
        place: usize,
        value: &Value,
        question: Question,
        open: &mut Vec<Task>,
    ) -> Counted {
        // All indices come from the meter; an unknown one costs nothing instead of a panic.
        let Some(node) = self.meter.nodes.get(place) else {
            return Ok(());
        };
        // Paid before the subschemas are queued, so that a spent budget ends the walk here.
        self.own(node, value, question)?;
        // An `unevaluated` keyword sends the validator through the schemas beside it a second time.
        if node.marks() {
            open.push(Task::Mark(place));
        }
        node.same
            .iter()
            .for_each(|same| same_value(*same, question, open));
        match value {
            Value::Object(map) => {
                let dependent = node
                    .dependent
                    .iter()
                    .filter(|(name, _)| map.contains_key(name));
                open.extend(dependent.map(|(_, child)| Task::Apply(*child, question)));
                self.object(node, map, question)
            }
            Value::Array(items) => self.array(node, items, question),
            _ => Ok(()),
        }
    }

    /// Counts the keywords that hold no schemas.
    fn own(&self, node: &PlaceCosts, value: &Value, question: Question) -> Counted {
        self.budget.spend(node.fixed)?;
        // The worst case: each keyword reports an error, with a copy of the value where errors are
        // owned.
        if let Question::Errors { copies } = question {
            let error = ERROR + (self.path.get() / POINTER_BYTES_PER_STEP) as u64;
            self.budget
                .spend((1 + node.keywords).saturating_mul(error))?;
            if copies {
                self.budget
                    .spend((1 + node.keywords).saturating_mul(self.size(value)?))?;
            }
        }
        let candidates = node.candidates.as_ref();
        match value {
            Value::String(text) => {
                self.budget.spend(per_kib(node.text_per_kib, text.len()))?;
                self.budget
                    .spend(candidates.map_or(0, |c| c.texts + text.len() as u64 / 256))
            }
            Value::Number(number) => {
                self.budget.spend(node.numeric.steps(number))?;
                let compared = candidates.map_or(0, |c| c.compared_numbers);
                self.budget
                    .spend(compared.saturating_mul(number::comparison(number)))?;
                self.budget.spend(candidates.map_or(0, |c| c.numbers))
            }
            Value::Array(items) => {
                self.budget.spend(candidates.map_or(0, |c| c.lists))?;
                if node.unique {
                    self.unique(items)
                } else {
                    Ok(())
                }
            }
            Value::Object(_) => self.budget.spend(candidates.map_or(0, |c| c.maps)),
            Value::Null | Value::Bool(_) => Ok(()),
        }
    }

    fn object(&self, node: &PlaceCosts, map: &Map<String, Value>, question: Question) -> Counted {
        self.budget.spend(map.len() as u64 / 4)?;
        // The smaller side drives the loop, so neither a wide object nor a wide schema alone is
        // slow.
        if map.len() < node.named.len() {
            for (name, value) in map {
                if let Some(child) = node.named.get(name) {
                    self.property(*child, name, value, question)?;
                }
            }
        } else {
            for (name, child) in &node.named {
                if let Some(value) = map.get(name) {
                    self.property(*child, name, value, question)?;
                }
            }
        }
        // An upper bound without matching: each pattern may match each name.
        for (effort, child) in &node.patterns {
            for (name, value) in map {
                self.budget.spend(effort.of(name.len()))?;
                self.property(*child, name, value, question)?;
            }
        }
        // Names that a pattern matches are counted here, too, since no pattern is matched.
        if let Some(child) = node.additional {
            for (name, value) in map
                .iter()
                .filter(|(name, _)| !node.named.contains_key(*name))
            {
                self.property(child, name, value, question)?;
            }
        }
        if let Some(child) = node.unevaluated_properties {
            map.iter()
                .try_for_each(|(name, value)| self.property(child, name, value, question))?;
        }
        if let Some(child) = node.property_names {
            // The name is a temporary value, so the validator copies it into each error.
            let question = if question == Question::Fits {
                question
            } else {
                Question::Errors { copies: true }
            };
            map.keys()
                .try_for_each(|name| self.visit(child, &Value::String(name.clone()), question))?;
        }
        Ok(())
    }

    fn array(&self, node: &PlaceCosts, items: &[Value], question: Question) -> Counted {
        for (index, item) in items.iter().enumerate() {
            if let Some(child) = node.first_items.get(index).copied().or(node.items) {
                self.visit(child, item, question)?;
            }
            // The validator asks each item only whether it fits; an error of `contains` is about
            // the list.
            if let Some(child) = node.contains {
                self.visit(child, item, Question::Fits)?;
            }
            if let Some(child) = node.unevaluated_items {
                self.visit(child, item, question)?;
            }
        }
        Ok(())
    }

    /// Counts the search for evaluated parts: the validator applies the schemas of the other
    /// keywords once more, and so on within them.
    fn mark(&self, place: usize, value: &Value, open: &mut Vec<Task>) -> Counted {
        let Some(node) = self.meter.nodes.get(place) else {
            return Ok(());
        };
        self.budget.spend(1 + node.named.len() as u64 / 4)?;
        match value {
            Value::Object(map) => {
                self.budget.spend(2 * map.len() as u64)?;
                for (effort, _) in &node.patterns {
                    map.keys()
                        .try_for_each(|name| self.budget.spend(effort.of(name.len())))?;
                }
                if let Some(child) = node.unevaluated_properties {
                    map.values()
                        .try_for_each(|value| self.visit(child, value, Question::Fits))?;
                }
                let dependent = node
                    .dependent
                    .iter()
                    .filter(|(name, _)| map.contains_key(name));
                open.extend(dependent.map(|(_, child)| Task::Mark(*child)));
            }
            Value::Array(items) => {
                self.budget.spend(items.len() as u64)?;
                for child in [node.contains, node.unevaluated_items]
                    .into_iter()
                    .flatten()
                {
                    items
                        .iter()
                        .try_for_each(|item| self.visit(child, item, Question::Fits))?;
                }
            }
            _ => return Ok(()),
        }
        // A part or a branch marks only if it fits, so it is applied once more; a reference only
        // passes its marks on, and `not` marks nothing.
        for same in node.same.iter().filter(|same| same.kind != SameKind::Not) {
            if same.kind != SameKind::Reference {
                open.push(Task::Apply(same.to, Question::Fits));
            }
            open.push(Task::Mark(same.to));
        }
        Ok(())
    }

    /// Counts the search for equal items: the validator hashes the items and compares those with
    /// equal hashes one by one.
    fn unique(&self, items: &[Value]) -> Counted {
        if items.len() <= PAIRWISE_ITEMS {
            let cost = items.iter().map(comparison).sum::<u64>();
            return self.budget.spend(cost.saturating_mul(items.len() as u64));
        }
        let mut seen: HashMap<u64, u64> = HashMap::new();
        for item in items {
            let cost = comparison(item);
            self.budget.spend(8 + 2 * cost)?;
            let mut hasher = DefaultHasher::new();
            hash(item, &mut hasher);
            // A hostile list may have one hash for all its items, which makes the validator's
            // search quadratic, so each pair with equal hashes is paid for.
            let equal = seen.entry(hasher.finish()).or_default();
            self.budget.spend(equal.saturating_mul(2 * cost))?;
            *equal += 1;
        }
        Ok(())
    }

    /// Steps to copy a value.
    fn size(&self, value: &Value) -> Result<u64, TooCostly> {
        let left = self.budget.left();
        let mut size = 0;
        measure(value, left, &mut size);
        // `measure` stopped early, so `size` is a lower bound; it does not fit, and the error
        // states it.
        if size > left {
            self.budget.spend(size).map(|()| size)
        } else {
            Ok(size)
        }
    }
}

/// Adds the work that a schema for the same value causes.
fn same_value(same: Same, question: Question, open: &mut Vec<Task>) {
    match (same.kind, question) {
        (_, Question::Fits) | (SameKind::Not, _) => open.push(Task::Apply(same.to, Question::Fits)),
        (SameKind::Branch, _) => {
            open.push(Task::Apply(same.to, Question::Fits));
            open.push(Task::Apply(same.to, Question::Errors { copies: true }));
        }
        (SameKind::Reference | SameKind::Part, _) => open.push(Task::Apply(same.to, question)),
    }
}

/// Adds the size of a value, and stops beyond the limit.
fn measure(value: &Value, limit: u64, size: &mut u64) {
    *size += 4;
    match value {
        Value::String(text) => *size += text.len() as u64 / 128,
        Value::Number(number) => *size += number.as_str().len() as u64 / 128,
        Value::Array(items) => {
            for item in items {
                // A value beyond the budget is refused anyway; measuring it must not cost more than
                // the budget.
                if *size > limit {
                    return;
                }
                measure(item, limit, size);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                if *size > limit {
                    return;
                }
                *size += 4 + key.len() as u64 / 128;
                measure(value, limit, size);
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

/// Hashes two values alike whenever the validator does: numbers by their value in 64 bits, lists by
/// their scalars, and maps regardless of order.
fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 3_u8.hash(hasher),
        Value::Bool(value) => value.hash(hasher),
        Value::Number(number) => match number.as_f64() {
            Some(value) if value != 0.0 => value.to_bits().hash(hasher),
            // Zero and minus zero are equal, so they need one hash.
            Some(_) => 0_u64.hash(hasher),
            // Numbers outside the range of `f64` all collide, which counts as the worst case.
            None => {}
        },
        Value::String(text) => text.hash(hasher),
        Value::Array(items) => items.iter().for_each(|item| hash(item, hasher)),
        Value::Object(map) => {
            let mut all = 0;
            for (key, value) in map {
                let mut entry = DefaultHasher::new();
                key.hash(&mut entry);
                hash(value, &mut entry);
                // Equality ignores the order of keys, so the combination has to be commutative.
                all ^= entry.finish();
            }
            hasher.write_u64(all);
        }
    }
}
