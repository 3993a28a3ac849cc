//! What is wrong with a template and where, so that all of it can be told at once.

use std::collections::HashSet;
use std::fmt;

use super::place;
use crate::domain::expression::ExpressionProblem;
use crate::domain::words::{did_you_mean, shorten};

/// How many problems one file can have; what is beyond is counted, not listed.
pub const MAX_PROBLEMS: usize = 100;

/// Collecting stops here, so that a hostile file cannot make its own error report the attack.
const MAX_COLLECTED: usize = 10 * MAX_PROBLEMS;

/// How many times a similar word is looked for.
const MAX_HINTS: usize = 20;

/// A place in the YAML text. Both from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pos {
    pub line: u32,
    pub column: u32,
}

impl Pos {
    pub const START: Pos = Pos { line: 1, column: 1 };
}

/// One thing that is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// Line of the offending value, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Where in the document, such as `step_templates[2].depends_on_steps[0]`; empty for the document itself.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// A problem, and where in the scalar it is when that is known.
struct Found {
    problem: Problem,
    inside: Option<(u32, u32)>,
}

/// The problems found so far.
#[derive(Default)]
pub(super) struct Problems {
    found: Vec<Found>,
    dropped: usize,
    hints: usize,
}

impl Problems {
    pub fn add(&mut self, pos: Pos, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (path.into(), message.into());
        self.push(Found { problem: Problem { line: pos.line, column: pos.column, path, message }, inside: None });
    }

    /// A problem of the expression in the scalar at `pos`.
    pub fn add_inside(&mut self, pos: Pos, path: &str, found: ExpressionProblem) {
        let ExpressionProblem { line, column, message } = found;
        let problem = Problem { line: pos.line, column: pos.column, path: path.to_owned(), message };
        self.push(Found { problem, inside: Some((line, column)) });
    }

    fn push(&mut self, found: Found) {
        if self.found.len() == MAX_COLLECTED {
            self.dropped += 1;
        } else {
            self.found.push(found);
        }
    }

    /// Those of the template in one of its environments, unless it has them anyway.
    pub fn add_all_in(&mut self, environment: &str, others: Problems) {
        let known: HashSet<Problem> = self.found.iter().map(|found| found.problem.clone()).collect();
        self.dropped += others.dropped;
        for mut found in others.found.into_iter().filter(|found| !known.contains(&found.problem)) {
            found.problem.message += &format!(" (in the environment `{}`)", shorten(environment));
            self.push(found);
        }
    }

    pub fn len(&self) -> usize {
        self.found.len() + self.dropped
    }

    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// ", did you mean …?" for the first [`MAX_HINTS`] words; comparing all words with each other would take too long.
    pub fn hint<'c>(&mut self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
        self.hints += 1;
        if self.hints > MAX_HINTS { String::new() } else { did_you_mean(word, candidates) }
    }

    /// In order of position, without repetitions, at most [`MAX_PROBLEMS`]; the last one then says how many are missing.
    pub fn into_sorted(self, yaml: &str) -> Vec<Problem> {
        let placed = |Found { problem, inside }: Found| {
            let at = Pos { line: problem.line, column: problem.column };
            let at = inside.map_or(at, |(line, column)| place::inside(yaml, at, line, column));
            Problem { line: at.line, column: at.column, ..problem }
        };
        let mut found: Vec<Problem> = self.found.into_iter().map(placed).collect();
        found.sort();
        found.dedup();
        let total = found.len() + self.dropped;
        if total > MAX_PROBLEMS {
            found.truncate(MAX_PROBLEMS);
            let hidden = total - MAX_PROBLEMS + 1;
            if let Some(last) = found.last_mut() {
                last.path = String::new();
                last.message = format!("{hidden} more problems from here on are not listed");
            }
        }
        found
    }
}

/// The path of a key of the mapping at `path`.
pub(super) fn child(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && shorten(key) == key
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-$".contains(&byte));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{:?}]", shorten(key)),
    }
}

/// The path of an item of the list at `path`; `index` is from 0.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_position_path_message() {
        let problem =
            Problem { line: 12, column: 5, path: "step_templates[2].name".into(), message: "is missing".into() };
        assert_eq!(problem.to_string(), "line 12, column 5: step_templates[2].name: is missing");
        let whole = Problem { path: String::new(), ..problem };
        assert_eq!(whole.to_string(), "line 12, column 5: is missing");
    }

    #[test]
    fn paths_quote_what_is_not_a_plain_word() {
        assert_eq!(child("", "schema"), "schema");
        assert_eq!(child("schema.properties", "$ref"), "schema.properties.$ref");
        assert_eq!(child("a", "b.c"), "a[\"b.c\"]");
        assert_eq!(item("a", 3), "a[3]");
    }

    #[test]
    fn the_list_is_sorted_and_capped() {
        let mut problems = Problems::default();
        for line in (1..=101).rev() {
            problems.add(Pos { line, column: 1 }, "a", "b");
            problems.add(Pos { line, column: 1 }, "a", "b");
        }
        let list = problems.into_sorted("");
        assert_eq!(list.len(), MAX_PROBLEMS);
        assert_eq!(list[98].line, 99);
        assert_eq!(list[99].to_string(), "line 100, column 1: 2 more problems from here on are not listed");
    }
}
