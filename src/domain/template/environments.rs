//! The key `environments`: for each name a part of a template, laid over the whole in servers of that environment.

use super::fields::{Field, Fields};
use super::node::{Data, Entry, Node};
use super::problem::{Problems, child, item};
use super::{MAX_ENVIRONMENTS, MAX_NAME_BYTES};
use crate::domain::words::shorten;

/// What an environment may say.
const KNOWN: [&str; 3] = ["annotations", "step_templates", "timeout_seconds"];

/// One environment, as far as it is known to be one.
pub(super) struct Environment<'n> {
    pub name: &'n str,
    part: &'n Node,
    path: String,
}

/// All environments of a document.
pub(super) fn of<'n>(root: &'n Node, problems: &mut Problems) -> Vec<Environment<'n>> {
    let Some(field) = Fields::of(root, "", "a mapping", &mut Problems::default()).and_then(|f| f.get("environments"))
    else {
        return Vec::new();
    };
    let Data::Map(entries) = &field.node.data else {
        Fields::of(field.node, &field.path, "a mapping from an environment's name to a part of the template", problems);
        return Vec::new();
    };
    if entries.len() > MAX_ENVIRONMENTS {
        let message =
            format!("the template has {} environments, but at most {MAX_ENVIRONMENTS} are allowed", entries.len());
        field.problem(message, problems);
        return Vec::new();
    }
    entries.iter().filter(|entry| !entry.key.broken).filter_map(|entry| environment(&field, entry, problems)).collect()
}

fn environment<'n>(field: &Field<'n>, entry: &'n Entry, problems: &mut Problems) -> Option<Environment<'n>> {
    let (name, path) = (entry.key.text.as_str(), child(&field.path, &entry.key.text));
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
        let message = format!("expected a name of 1 to {MAX_NAME_BYTES} bytes without control characters");
        problems.add(entry.key.pos, path, message);
        return None;
    }
    let fields = Fields::of(&entry.node, &path, "a mapping with `step_templates`", problems)?;
    fields.refuse_unknown(&KNOWN, &[], problems);
    Some(Environment { name, part: &entry.node, path })
}

impl Environment<'_> {
    /// The document with this environment laid over it: mappings are merged, steps by their names, and all else is replaced.
    pub fn over(&self, root: &Node, problems: &mut Problems) -> Node {
        let mut whole = root.clone();
        let (Data::Map(entries), Data::Map(part)) = (&mut whole.data, &self.part.data) else { return whole };
        entries.retain(|entry| entry.key.text != "environments");
        for entry in part {
            match entries.iter_mut().find(|known| known.key.text == entry.key.text) {
                Some(known) if known.key.text == "step_templates" => {
                    self.steps(&mut known.node, &entry.node, problems);
                }
                Some(known) => merge(&mut known.node, &entry.node),
                None => entries.push(entry.clone()),
            }
        }
        whole
    }

    fn steps(&self, steps: &mut Node, parts: &Node, problems: &mut Problems) {
        let path = child(&self.path, "step_templates");
        let Data::List(items) = &parts.data else {
            problems.add(parts.pos, path, format!("expected a list of steps by name, found {}", parts.data.kind()));
            return;
        };
        let Data::List(steps) = &mut steps.data else { return };
        for (index, part) in items.iter().enumerate() {
            let path = item(&path, index);
            let Some(name) = name_of(part) else {
                problems.add(part.pos, path, "expected a step with the `name` of one of the template's steps");
                continue;
            };
            match steps.iter_mut().find(|step| name_of(step) == Some(name)) {
                Some(step) => merge(step, part),
                None => problems.add(part.pos, path, format!("the template has no step `{}`", shorten(name))),
            }
        }
    }
}

fn name_of(step: &Node) -> Option<&str> {
    let Data::Map(entries) = &step.data else { return None };
    match &entries.iter().find(|entry| entry.key.text == "name")?.node.data {
        Data::Text(name) => Some(name),
        _ => None,
    }
}

/// Lays a value over another one. Mappings become one; of anything else the new one stays.
fn merge(base: &mut Node, over: &Node) {
    match (&mut base.data, &over.data) {
        (Data::Map(entries), Data::Map(more)) => {
            for entry in more {
                match entries.iter_mut().find(|known| known.key.text == entry.key.text) {
                    Some(known) => merge(&mut known.node, &entry.node),
                    None => entries.push(entry.clone()),
                }
            }
        }
        _ => *base = over.clone(),
    }
}
