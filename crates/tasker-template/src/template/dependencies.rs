//! Resolves step names into indices: names must be unique and exist, and dependencies must not form
//! a cycle.

use std::collections::{BTreeMap, HashMap};

use super::step::{RawStep, Reference};
use crate::cycles::find_cycles;
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;
use crate::text::shorten;
use crate::yaml::problem::Problems;

/// The most steps of a cycle that its message lists.
const MAX_NAMED: usize = 20;

/// Fills in [`StepTemplate::depends_on`].
pub(super) fn resolve(raw: Vec<RawStep<'_>>, problems: &mut Problems) -> Vec<StepTemplate> {
    let index = index_names(&raw, problems);
    let links: Vec<BTreeMap<StepIndex, &Reference<'_>>> = raw
        .iter()
        .map(|step| parents(step, &raw, &index, problems))
        .collect();
    // While the places of the references are still known; the steps keep only indices.
    report_cycles(&raw, &links, problems);
    let parents: Vec<Vec<StepIndex>> = links
        .iter()
        .map(|links| links.keys().copied().collect())
        .collect();
    raw.into_iter()
        .zip(parents)
        .map(|(raw, depends_on)| StepTemplate {
            depends_on,
            ..raw.step
        })
        .collect()
}

/// The first step of each name.
fn index_names<'n>(raw: &[RawStep<'n>], problems: &mut Problems) -> HashMap<&'n str, StepIndex> {
    let mut index = HashMap::new();
    for (position, name) in StepIndex::all(raw.len())
        .zip(raw)
        .filter_map(|(position, step)| Some((position, step.name.as_ref()?)))
    {
        // The first use keeps the name, so references lead to it.
        let first = *index.entry(name.name).or_insert(position);
        if first != position {
            let line = raw[usize::from(first)]
                .name
                .as_ref()
                .map_or(0, |first| first.pos.line);
            let message = format!(
                "the step name `{}` is already used on line {line}; expected a unique name",
                shorten(name.name)
            );
            problems.add(name.pos, name.path.as_str(), message);
        }
    }
    index
}

/// The parents of one step, each with the place of its reference.
fn parents<'s, 'n>(
    step: &'s RawStep<'n>,
    all: &[RawStep<'n>],
    index: &HashMap<&'n str, StepIndex>,
    problems: &mut Problems,
) -> BTreeMap<StepIndex, &'s Reference<'n>> {
    // Ordered, as `depends_on` has to be.
    let mut links = BTreeMap::new();
    for reference in &step.depends_on {
        let name = shorten(reference.name);
        let problem = match index.get(reference.name) {
            None => {
                let names = all.iter().filter_map(|step| Some(step.name.as_ref()?.name));
                format!(
                    "there is no step `{name}`{}",
                    problems.hint(reference.name, names)
                )
            }
            Some(parent) if links.insert(*parent, reference).is_some() => {
                format!("the step `{name}` is listed twice")
            }
            Some(_) => continue,
        };
        problems.add(reference.pos, reference.path.as_str(), problem);
    }
    links
}

fn report_cycles(
    raw: &[RawStep<'_>],
    links: &[BTreeMap<StepIndex, &Reference<'_>>],
    problems: &mut Problems,
) {
    let edges: Vec<Vec<usize>> = links
        .iter()
        .map(|links| links.keys().copied().map(usize::from).collect())
        .collect();
    for cycle in find_cycles(&edges) {
        let first = cycle[0];
        // The edge to the second step is written at the first step, so its place is known.
        let next = cycle.get(1).copied().unwrap_or(first);
        let next = StepIndex::try_from(next).ok();
        let Some(reference) = next.and_then(|next| links[first].get(&next)) else {
            continue;
        };
        let mut names: Vec<String> = cycle
            .iter()
            .take(MAX_NAMED)
            .map(|step| shorten(&raw[*step].step.name))
            .collect();
        if cycle.len() > MAX_NAMED {
            names.push(format!("… {} more …", cycle.len() - MAX_NAMED));
        }
        names.push(shorten(&raw[first].step.name));
        let message = match cycle.len() {
            1 => format!("the step waits for itself: {}", names.join(" → ")),
            _ => format!(
                "the steps wait for each other in a cycle: {}",
                names.join(" → ")
            ),
        };
        problems.add(reference.pos, reference.path.as_str(), message);
    }
}
