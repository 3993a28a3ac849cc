//! The templates of the histories: few steps, two handlers, every kind of join.

use std::fmt::Write as _;

pub struct StepShape {
    pub name: &'static str,
    pub handler: usize,
    pub parents: &'static [usize],
    pub limit: usize,
}

pub struct Shape {
    pub name: &'static str,
    pub steps: &'static [StepShape],
}

pub const HANDLERS: [&str; 2] = ["h0", "h1"];
/// Sorted as text, which is not their order as versions.
pub const VERSIONS: [&str; 3] = ["1.0.0", "1.10.0", "1.9.0"];
/// Positions in [`VERSIONS`], oldest first.
pub const BY_AGE: [usize; 3] = [0, 2, 1];
/// The template with several versions; the others have the first one only.
pub const MOVING: usize = 4;

const fn step(
    name: &'static str,
    handler: usize,
    parents: &'static [usize],
    limit: usize,
) -> StepShape {
    StepShape {
        name,
        handler,
        parents,
        limit,
    }
}

/// The templates that are registered from the start, then the contents that a version of `moving`
/// may have.
pub const SHAPES: [Shape; 6] = [
    Shape {
        name: "one",
        steps: &[step("a", 0, &[], 2)],
    },
    Shape {
        name: "chain",
        steps: &[
            step("a", 0, &[], 1),
            step("b", 1, &[0], 3),
            step("c", 0, &[1], 2),
        ],
    },
    Shape {
        name: "diamond",
        steps: &[
            step("a", 0, &[], 2),
            step("b", 0, &[0], 1),
            step("c", 1, &[0], 2),
            step("d", 0, &[1, 2], 3),
        ],
    },
    Shape {
        name: "roots",
        steps: &[
            step("a", 0, &[], 2),
            step("b", 1, &[], 2),
            step("c", 1, &[0], 1),
            step("d", 0, &[1], 2),
            step("e", 1, &[2, 3], 2),
        ],
    },
    Shape {
        name: "moving",
        steps: &[step("a", 0, &[], 2)],
    },
    Shape {
        name: "moving",
        steps: &[step("a", 0, &[], 2), step("b", 1, &[0], 1)],
    },
];

impl Shape {
    pub fn yaml(&self, namespace: &str, version: &str) -> String {
        let mut yaml = format!(
            "task_name: {}\nnamespace: {namespace}\nversion: {version}\nstep_templates:\n",
            self.name
        );
        for step in self.steps {
            let parents: Vec<&str> = step.parents.iter().map(|p| self.steps[*p].name).collect();
            let limit = match step.limit {
                1 => "default_retryable: false".to_owned(),
                n => format!("default_retry_limit: {n}"),
            };
            let (name, handler, parents) = (step.name, HANDLERS[step.handler], parents.join(", "));
            // Short, so that no history waits.
            let backoff = "backoff: {base_seconds: 0.01, max_seconds: 0.03}";
            writeln!(
                yaml,
                "  - {{name: {name}, handler_class: {handler}, depends_on_steps: [{parents}], {limit}, {backoff}}}"
            )
            .unwrap();
        }
        yaml
    }

    /// All direct and indirect parents of a step.
    pub fn ancestors(&self, step: usize) -> Vec<usize> {
        let mut all: Vec<usize> = self.steps[step].parents.to_vec();
        for parent in self.steps[step].parents {
            all.extend(self.ancestors(*parent));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}
