//! `inputs` of a step: whose results its handler gets.

use std::collections::{BTreeSet, HashMap};

use super::problem::Problems;
use super::step::Reference;
use super::{Graph, StepTemplate};
use crate::domain::words::shorten;

/// Fills in [`StepTemplate::inputs`]. `linked` says that the dependencies are known to be right; otherwise nothing is said about
/// which steps come before which.
pub(super) fn read(
    steps: &mut [StepTemplate],
    inputs: &[Option<Vec<Reference<'_>>>],
    linked: bool,
    problems: &mut Problems,
) {
    if inputs.iter().all(Option::is_none) {
        return;
    }
    let graph = Graph::from_dependencies(steps.iter().map(|step| step.depends_on.as_slice()));
    let index: HashMap<String, usize> = steps.iter().enumerate().map(|(i, step)| (step.name.clone(), i)).collect();
    for (position, references) in inputs.iter().enumerate() {
        let Some(references) = references else { continue };
        let mut named = BTreeSet::new();
        for reference in references {
            let name = shorten(reference.name);
            let problem = match index.get(reference.name) {
                None => {
                    let hint = problems.hint(reference.name, index.keys().map(String::as_str));
                    format!("there is no step `{name}`{hint}")
                }
                Some(step) if linked && !graph.ancestors(position).contains(&(*step as u16)) => {
                    format!("the step `{name}` does not come before this one; expected it in `depends_on_steps`")
                }
                Some(step) if !named.insert(*step) => format!("the step `{name}` is listed twice"),
                Some(_) => continue,
            };
            problems.add(reference.pos, reference.path.as_str(), problem);
        }
        steps[position].inputs = Some(named.into_iter().collect());
    }
}
