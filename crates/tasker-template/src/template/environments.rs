//! `environments`: parts of a template that differ by the server's environment, each merged over
//! the template.

use std::collections::{HashMap, HashSet};

use crate::limits::MAX_ENVIRONMENTS;
use crate::name::MAX_NAME_BYTES;
use crate::text::shorten;
use crate::yaml::fields::{Field, Fields};
use crate::yaml::node::{Data, Entry, Node};
use crate::yaml::problem::Problems;

const STEPS: &str = "step_templates";
const KNOWN: [&str; 3] = [STEPS, "annotations", "timeout_seconds"];

/// Keys of a step that are aliases; the one in an environment replaces both.
const ALIASES: [(&str, &str); 2] = [
    ("handler_class", "handler"),
    ("depends_on_steps", "depends_on_step"),
];

/// The environments of a template.
pub(super) struct Environments<'n> {
    template: Fields<'n>,
    all: Vec<(String, Field<'n>)>,
}

impl<'n> Environments<'n> {
    /// Reads the names; an invalid one adds a problem, and its environment is left out.
    pub fn of(root: &'n Node, problems: &mut Problems) -> Option<Self> {
        // The template itself was read before, and has reported this.
        let template = Fields::of(root, "", "", &mut Problems::default())?;
        let field = template.filled("environments")?;
        let what = "a mapping from the names of environments to their differences";
        let mut all: Vec<(String, Field<'_>)> =
            Fields::of(field.node, &field.path, what, problems)?
                .all()
                .collect();
        if all.len() > MAX_ENVIRONMENTS {
            let message = format!(
                "the template has {} environments, but at most {MAX_ENVIRONMENTS} are allowed",
                all.len()
            );
            field.problem(message, problems);
            return None;
        }
        all.retain(|(name, field)| {
            let is_name = !name.is_empty()
                && name.len() <= MAX_NAME_BYTES
                && !name.contains(char::is_control);
            if !is_name {
                let message = format!(
                    "expected a name of 1 to {MAX_NAME_BYTES} bytes without control characters"
                );
                problems.add(field.key_pos, &field.path, message);
            }
            is_name
        });
        Some(Environments { template, all })
    }

    /// The names with their differences.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Field<'n>)> {
        self.all.iter().map(|(name, field)| (name.as_str(), field))
    }

    /// The whole template as it is in the environment of this field. One at a time, since each
    /// takes as much memory as the template.
    pub fn merged(&self, field: &Field<'_>, problems: &mut Problems) -> Option<Node> {
        let mut entries = self.template.entries().to_vec();
        if field.is_filled() {
            let fields = Fields::of(field.node, &field.path, "a mapping", problems)?;
            fields.refuse_unknown(&KNOWN, problems);
            let steps = fields.filled("step_templates");
            let others = fields.entries().iter().filter(|entry| is_filled(entry));
            // Steps are merged by name; a merge by position would break when a step is inserted.
            match (steps, steps_of(&mut entries)) {
                (Some(field), Some(base)) => {
                    merge_steps(base, &field, problems);
                    let others = others.filter(|entry| entry.key.text != STEPS);
                    merge_entries(&mut entries, others, &[]);
                }
                _ => merge_entries(&mut entries, others, &[]),
            }
        }
        Some(Node {
            pos: self.template.pos,
            data: Data::Map(entries),
        })
    }
}

/// The list of the template's steps.
fn steps_of(entries: &mut [Entry]) -> Option<&mut [Node]> {
    let steps = entries.iter_mut().find(|entry| entry.key.text == STEPS)?;
    match &mut steps.node.data {
        Data::List(steps) => Some(steps),
        _ => None,
    }
}

/// Merges the steps of an environment into those of the same name.
fn merge_steps(base: &mut [Node], field: &Field<'_>, problems: &mut Problems) {
    // The names of the template: an environment changes steps and adds none.
    let names: Vec<Option<String>> = base.iter().map(name_of).collect();
    let mut index: HashMap<&str, usize> = HashMap::new();
    for (position, name) in names.iter().enumerate() {
        // The first of two steps with one name counts, as for references.
        if let Some(name) = name {
            index.entry(name).or_insert(position);
        }
    }
    let mut seen = HashSet::new();
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
        let Some(position) = index.get(wanted).copied() else {
            let hint = problems.hint(wanted, names.iter().flatten().map(String::as_str));
            name.problem(
                format!("there is no step `{}`{hint}", shorten(wanted)),
                problems,
            );
            continue;
        };
        // Not merged: any number of entries for one large step would be quadratic.
        if !seen.insert(position) {
            name.problem(
                format!(
                    "the step `{}` appears twice in this environment",
                    shorten(wanted)
                ),
                problems,
            );
            continue;
        }
        let filled = fields.entries().iter().filter(|entry| is_filled(entry));
        if let Data::Map(entries) = &mut base[position].data {
            merge_entries(entries, filled, &ALIASES);
        }
    }
}

fn name_of(step: &Node) -> Option<String> {
    let Data::Map(entries) = &step.data else {
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
}

/// A key without a value changes nothing at the levels of the template and the step; within a
/// handler's own content it is a null.
fn is_filled(entry: &Entry) -> bool {
    !matches!(entry.node.data, Data::Null)
}

/// Merges mappings within mappings; any other value is replaced.
fn merge(base: &mut Node, over: &Node) {
    match (&mut base.data, &over.data) {
        (Data::Map(base), Data::Map(over)) => merge_entries(base, over.iter(), &[]),
        _ => base.clone_from(over),
    }
}

/// Merges the entries of a mapping into those of another. Of two keys that are `aliases`, the one
/// of the template is removed: both together would be a conflict, which the author did not write.
fn merge_entries<'e>(
    base: &mut Vec<Entry>,
    over: impl Iterator<Item = &'e Entry>,
    aliases: &[(&str, &str)],
) {
    let over: Vec<&Entry> = over.collect();
    let replaced: HashSet<&str> = over
        .iter()
        .filter_map(|entry| other_spelling(&entry.key.text, aliases))
        .collect();
    base.retain(|entry| !replaced.contains(entry.key.text.as_str()));
    // By key: a search for each key would be quadratic in the size of a file.
    let mut index: HashMap<String, usize> = HashMap::with_capacity(base.len());
    for (position, entry) in base.iter().enumerate() {
        index.entry(entry.key.text.clone()).or_insert(position);
    }
    for entry in over {
        match index.get(&entry.key.text) {
            Some(position) => merge(&mut base[*position].node, &entry.node),
            None => {
                index.insert(entry.key.text.clone(), base.len());
                base.push(entry.clone());
            }
        }
    }
}

fn other_spelling<'a>(key: &str, aliases: &[(&'a str, &'a str)]) -> Option<&'a str> {
    aliases.iter().find_map(|(a, b)| {
        if *a == key {
            Some(*b)
        } else {
            (*b == key).then_some(*a)
        }
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::yaml::node::Key;
    use crate::yaml::position::Pos;

    fn map(keys: impl Iterator<Item = usize>, data: &Data) -> Node {
        let entry = |key: usize| Entry {
            key: Key {
                pos: Pos::START,
                text: format!("key{key}"),
                broken: false,
            },
            node: Node {
                pos: Pos::START,
                data: data.clone(),
            },
        };
        Node {
            pos: Pos::START,
            data: Data::Map(keys.map(entry).collect()),
        }
    }

    /// As many keys as a file may have values; a search for each key would take minutes.
    #[test]
    fn merge_of_the_largest_mappings_is_linear() {
        let mut base = map(0..100_000, &Data::Null);
        let over = map(50_000..150_000, &Data::Bool(true));
        let begun = Instant::now();
        merge(&mut base, &over);
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        let Data::Map(entries) = base.data else {
            panic!("a mapping")
        };
        let set = |entry: &&Entry| matches!(entry.node.data, Data::Bool(true));
        assert_eq!(
            (entries.len(), entries.iter().filter(set).count()),
            (150_000, 100_000)
        );
        assert_eq!(entries[149_999].key.text, "key149999");
    }

    #[test]
    fn many_entries_for_one_large_step_are_merged_in_linear_time() {
        let keys: String = (0..7_000).map(|key| format!("a{key}: 0, ")).collect();
        let repeated = "{name: a},".repeat(15_000);
        let yaml = format!(
            "name: t\nstep_templates: [{{name: a, {keys} handler: h}}]\n\
             environments: {{e: {{step_templates: [{repeated}]}}}}\n"
        );
        assert!(yaml.len() < crate::MAX_TEMPLATE_BYTES, "{}", yaml.len());
        let begun = Instant::now();
        let mut problems = Problems::default();
        let root = crate::yaml::parse(&yaml, &mut problems).expect("a tree");
        let environments = Environments::of(&root, &mut problems).expect("one");
        let (_, field) = environments.all().next().expect("one");
        environments.merged(field, &mut problems).expect("merged");
        assert_eq!(problems.len(), 14_999);
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
    }
}
