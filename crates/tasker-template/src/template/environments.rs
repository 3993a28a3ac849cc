//! `environments`: parts of a template that differ by the server's environment, each merged over
//! the template.

use crate::limits::MAX_ENVIRONMENTS;
use crate::name::MAX_NAME_BYTES;
use crate::text::shorten;
use crate::yaml::fields::{Field, Fields};
use crate::yaml::node::{Data, Entry, Node};
use crate::yaml::problem::Problems;

const KNOWN: [&str; 3] = ["step_templates", "annotations", "timeout_seconds"];

/// Keys of a step that are aliases; the one in an environment replaces both.
const ALIASES: [(&str, &str); 2] = [
    ("handler_class", "handler"),
    ("depends_on_steps", "depends_on_step"),
];

/// The whole template as it is in each of its environments.
pub(super) fn read(root: &Node, problems: &mut Problems) -> Vec<(String, Node)> {
    // The template itself was read before, and has reported this.
    let Some(fields) = Fields::of(root, "", "", &mut Problems::default()) else {
        return Vec::new();
    };
    let Some(field) = fields.filled("environments") else {
        return Vec::new();
    };
    let what = "a mapping from the names of environments to their differences";
    let Some(environments) = Fields::of(field.node, &field.path, what, problems) else {
        return Vec::new();
    };
    let all: Vec<(String, Field<'_>)> = environments.all().collect();
    if all.len() > MAX_ENVIRONMENTS {
        let message = format!(
            "the template has {} environments, but at most {MAX_ENVIRONMENTS} are allowed",
            all.len()
        );
        field.problem(message, problems);
        return Vec::new();
    }
    let mut merged = Vec::new();
    for (name, field) in all {
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
            let message = format!(
                "expected a name of 1 to {MAX_NAME_BYTES} bytes without control characters"
            );
            problems.add(field.key_pos, &field.path, message);
        } else if let Some(node) = environment(&fields, &field, problems) {
            merged.push((name, node));
        }
    }
    merged
}

fn environment(template: &Fields<'_>, field: &Field<'_>, problems: &mut Problems) -> Option<Node> {
    if !field.is_filled() {
        return Some(Node {
            pos: template.pos,
            data: Data::Map(template.entries().to_vec()),
        });
    }
    let fields = Fields::of(field.node, &field.path, "a mapping", problems)?;
    fields.refuse_unknown(&KNOWN, problems);
    let mut root = Node {
        pos: template.pos,
        data: Data::Map(template.entries().to_vec()),
    };
    let Data::Map(entries) = &mut root.data else {
        return None;
    };
    for entry in fields.entries().iter().filter(|entry| is_filled(entry)) {
        let Some(base) = entries
            .iter_mut()
            .find(|base| base.key.text == entry.key.text)
        else {
            entries.push(entry.clone());
            continue;
        };
        base.node = match (entry.key.text.as_str(), &base.node.data) {
            // Steps are merged by name; a merge by position would break when a step is inserted.
            ("step_templates", Data::List(steps)) => {
                let field = fields.get("step_templates")?;
                Node {
                    pos: base.node.pos,
                    data: Data::List(merge_steps(steps, &field, problems)),
                }
            }
            _ => merge(&base.node, &entry.node, &[]),
        };
    }
    Some(root)
}

/// Merges steps with those of the same name.
fn merge_steps(base: &[Node], field: &Field<'_>, problems: &mut Problems) -> Vec<Node> {
    let mut steps = base.to_vec();
    let name_of = |node: &Node| -> Option<String> {
        let Data::Map(entries) = &node.data else {
            return None;
        };
        match &entries
            .iter()
            .find(|entry| entry.key.text == "name")?
            .node
            .data
        {
            Data::Text(name) => Some(name.clone()),
            _ => None,
        }
    };
    // The names of the template: an environment changes steps and adds none.
    let names: Vec<Option<String>> = base.iter().map(name_of).collect();
    let mut seen = std::collections::HashSet::new();
    for item in field.list("a list of steps", problems).unwrap_or_default() {
        let Some(fields) = Fields::of(
            item.node,
            &item.path,
            "a step (a mapping with `name`)",
            problems,
        ) else {
            continue;
        };
        let Some(name) = fields.get("name") else {
            fields.missing("name", problems);
            continue;
        };
        let Some(wanted) = name.text(problems) else {
            continue;
        };
        let Some(index) = names
            .iter()
            .position(|name| name.as_deref() == Some(wanted))
        else {
            let hint = problems.hint(wanted, names.iter().flatten().map(String::as_str));
            name.problem(
                format!("there is no step `{}`{hint}", shorten(wanted)),
                problems,
            );
            continue;
        };
        // Reported and merged all the same, so that the problems of this entry are found, too.
        if !seen.insert(index) {
            name.problem(
                format!(
                    "the step `{}` appears twice in this environment",
                    shorten(wanted)
                ),
                problems,
            );
        }
        steps[index] = merge(&steps[index], &filled(item.node), &ALIASES);
    }
    steps
}

/// A key without a value changes nothing at the levels of the template and the step; within a
/// handler's own content it is a null.
fn is_filled(entry: &Entry) -> bool {
    !matches!(entry.node.data, Data::Null)
}

fn filled(node: &Node) -> Node {
    let Data::Map(entries) = &node.data else {
        return node.clone();
    };
    let entries = entries
        .iter()
        .filter(|entry| is_filled(entry))
        .cloned()
        .collect();
    Node {
        pos: node.pos,
        data: Data::Map(entries),
    }
}

/// Merges mappings within mappings; any other value is replaced.
fn merge(base: &Node, over: &Node, aliases: &[(&str, &str)]) -> Node {
    let (Data::Map(base_entries), Data::Map(over_entries)) = (&base.data, &over.data) else {
        return over.clone();
    };
    let other = |key: &str| {
        aliases.iter().find_map(|(a, b)| {
            if *a == key {
                Some(*b)
            } else {
                (*b == key).then_some(*a)
            }
        })
    };
    let mut entries: Vec<Entry> = base_entries.clone();
    for entry in over_entries {
        if let Some(alias) = other(&entry.key.text) {
            // Both spellings together would be a conflict, which the author did not write.
            entries.retain(|base| base.key.text != alias);
        }
        match entries
            .iter_mut()
            .find(|base| base.key.text == entry.key.text)
        {
            Some(base) => base.node = merge(&base.node, &entry.node, &[]),
            None => entries.push(entry.clone()),
        }
    }
    Node {
        pos: base.pos,
        data: Data::Map(entries),
    }
}
