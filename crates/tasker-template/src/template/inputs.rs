//! `inputs` of a step: the steps whose results its handler receives.

use std::collections::{BTreeSet, HashMap};

use super::Graph;
use super::step::Reference;
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;
use crate::text::shorten;
use crate::yaml::problem::Problems;

/// Fills in [`StepTemplate::inputs`]. `linked` means that the dependencies are valid; otherwise the
/// order of steps is not checked.
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
    let index: HashMap<String, StepIndex> = steps
        .iter()
        .zip(graph.steps())
        .map(|(step, index)| (step.name.clone(), index))
        .collect();
    for (position, references) in graph.steps().zip(inputs) {
        let Some(references) = references else {
            continue;
        };
        // Ordered and unique, as `StepTemplate::inputs` has to be.
        let mut named = BTreeSet::new();
        for reference in references {
            let name = shorten(reference.name);
            let problem = match index.get(reference.name) {
                None => {
                    let hint =
                        problems.hint(reference.name, steps.iter().map(|step| step.name.as_str()));
                    format!("there is no step `{name}`{hint}")
                }
                // Not checked after invalid dependencies, with which the ancestors are unknown.
                Some(step) if linked && !graph.precedes(*step, position) => {
                    format!(
                        "the step `{name}` does not come before this one; expected it in `depends_on_steps`"
                    )
                }
                Some(step) if !named.insert(*step) => format!("the step `{name}` is listed twice"),
                Some(_) => continue,
            };
            problems.add(reference.pos, reference.path.as_str(), problem);
        }
        steps[usize::from(position)].inputs = Some(named.into_iter().collect());
    }
}

#[cfg(test)]
mod tests {
    use crate::{Problem, Template};

    fn parse(inputs: &str) -> Result<Template, Vec<Problem>> {
        let yaml = format!(
            "task_name: t\nplanner: p\nstep_templates:\n- {{name: a, handler: h}}\n- {{name: other, handler: h}}\n\
             - {{name: b, handler: h, depends_on_step: a}}\n- {{name: c, handler: h, depends_on_step: b, inputs: {inputs}}}\n"
        );
        Template::parse(&yaml, "")
    }

    #[test]
    fn inputs_resolve_to_indices_after_the_planner() {
        let inputs = |text: &str| parse(text).unwrap().steps[4].inputs.clone();
        assert_eq!(inputs("[b, a]").unwrap(), [1, 3]);
        assert_eq!(inputs("[]"), Some(vec![]));
        assert_eq!(parse("[a]").unwrap().steps[3].inputs, None);
    }

    #[test]
    fn input_that_is_not_an_ancestor_is_refused_with_its_place() {
        for (inputs, path, message) in [
            (
                "[othr]",
                "[0]",
                "there is no step `othr`, did you mean `other`?",
            ),
            (
                "[a, other]",
                "[1]",
                "the step `other` does not come before this one; expected it in `depends_on_steps`",
            ),
            (
                "[c]",
                "[0]",
                "the step `c` does not come before this one; expected it in `depends_on_steps`",
            ),
            ("[planner]", "[0]", "there is no step `planner`"),
            ("[a, b, a]", "[2]", "the step `a` is listed twice"),
            ("a", "", "expected a list of step names"),
        ] {
            let problems = parse(inputs).unwrap_err();
            let [problem] = &problems[..] else {
                panic!("{inputs}: {problems:?}")
            };
            assert_eq!(
                (problem.line, problem.path.as_str()),
                (7, &*format!("step_templates[3].inputs{path}")),
                "{inputs}"
            );
            assert!(
                problem.message.starts_with(message),
                "{inputs}: {}",
                problem.message
            );
        }
    }
}
