//! The problems of a template with their positions, collected so that all are reported at once.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use super::position::{self, Pos};
use crate::expression::ExpressionProblem;
use crate::text::{did_you_mean, shorten};

/// The most problems in one list, and the most warnings; further ones are only counted.
pub const MAX_PROBLEMS: usize = 100;

/// The most distinct problems that are counted; only a crafted file has more.
const MAX_COUNTED: usize = 100_000;

/// The most searches for a similar word.
const MAX_HINTS: usize = 20;

/// A problem of a template, or a warning for its author.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// Line of the offending value, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Path in the document, such as `step_templates[2].depends_on_steps[0]`; empty for the
    /// document itself.
    pub path: String,
    /// The problem and the expected value; for a warning, the replacement of an unused key.
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

/// A problem, and its position inside the scalar if that is known.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Finding {
    problem: Problem,
    inside: Option<(u32, u32)>,
}

/// The rule by which names are checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Names {
    /// The grammar of names: the template is about to be stored.
    #[default]
    New,
    /// The older rule, which stored templates may rely on.
    Stored,
}

/// The findings so far: all are counted, and the first [`MAX_PROBLEMS`] by position are kept.
#[derive(Default)]
struct Findings {
    first: BTreeSet<Finding>,
    seen: HashSet<u64>,
    /// A part of the file was not checked, so there may be more.
    is_partial: bool,
}

impl Findings {
    fn add(&mut self, found: Finding) {
        self.count(fingerprint(&found));
        self.keep(found);
    }

    fn count(&mut self, fingerprint: u64) {
        if self.seen.len() < MAX_COUNTED {
            self.seen.insert(fingerprint);
        } else {
            self.is_partial |= !self.seen.contains(&fingerprint);
        }
    }

    fn keep(&mut self, found: Finding) {
        // Ordered by position, so the last is the one to drop.
        self.first.insert(found);
        if self.first.len() > MAX_PROBLEMS {
            self.first.pop_last();
        }
    }

    /// Adds the findings of the template in one of its environments, except those that the template
    /// has anyway.
    fn add_all_in(&mut self, environment: &str, others: Findings) {
        // Both lists are collected before the set grows, or the first additions would hide later
        // ones.
        let new = |seen: &u64| !self.seen.contains(seen);
        let counted: Vec<u64> = others
            .seen
            .iter()
            .filter(|seen| new(seen))
            .map(|s| fingerprint(&(s, environment)))
            .collect();
        let kept: Vec<Finding> = others
            .first
            .into_iter()
            .filter(|found| new(&fingerprint(found)))
            .collect();
        counted
            .into_iter()
            .for_each(|fingerprint| self.count(fingerprint));
        for mut found in kept {
            found.problem.message += &format!(" (in the environment `{}`)", shorten(environment));
            self.keep(found);
        }
    }

    /// The findings in order of position, at most [`MAX_PROBLEMS`]; if there are more, the last one
    /// states how many are not listed.
    fn into_sorted(self, yaml: &str, what: &str) -> Vec<Problem> {
        let placed = |Finding { problem, inside }: Finding| {
            let at = Pos {
                line: problem.line,
                column: problem.column,
            };
            let at = inside.map_or(at, |(line, column)| {
                position::inside(yaml, at, line, column)
            });
            Problem {
                line: at.line,
                column: at.column,
                ..problem
            }
        };
        let total = self.seen.len();
        let mut listed: Vec<Problem> = self.first.into_iter().map(placed).collect();
        // Places inside a scalar may have changed the order.
        listed.sort();
        listed.dedup();
        if total > MAX_PROBLEMS
            && let Some(last) = listed.last_mut()
        {
            // The last listed problem gives its place to the count, so it is hidden, too.
            let hidden = total - MAX_PROBLEMS + 1;
            let at_least = if self.is_partial { "at least " } else { "" };
            last.path = String::new();
            last.message = format!("{at_least}{hidden} more {what} from here on are not listed");
        }
        listed
    }
}

fn fingerprint(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The problems and warnings found so far.
#[derive(Default)]
pub(crate) struct Problems {
    problems: Findings,
    warnings: Findings,
    hints: usize,
    /// The rule by which names are checked.
    pub names: Names,
}

impl Problems {
    pub fn reading(names: Names) -> Self {
        Problems {
            names,
            ..Problems::default()
        }
    }

    pub fn add(&mut self, pos: Pos, path: impl Into<String>, message: impl Into<String>) {
        self.problems
            .add(found(pos, path.into(), message.into(), None));
    }

    /// Adds a problem of the expression in the scalar at `pos`.
    pub fn add_inside(&mut self, pos: Pos, path: &str, problem: ExpressionProblem) {
        let ExpressionProblem {
            line,
            column,
            message,
        } = problem;
        self.problems
            .add(found(pos, path.to_owned(), message, Some((line, column))));
    }

    /// Adds a warning, which does not make the template invalid.
    pub fn warn(&mut self, pos: Pos, path: impl Into<String>, message: impl Into<String>) {
        self.warnings
            .add(found(pos, path.into(), message.into(), None));
    }

    /// Adds the problems and warnings of the template in one of its environments, except those that
    /// the template has anyway.
    pub fn add_all_in(&mut self, environment: &str, others: Problems) {
        self.problems.add_all_in(environment, others.problems);
        self.warnings.add_all_in(environment, others.warnings);
    }

    /// Records that the rest of the file is not checked.
    pub fn leave_rest(&mut self) {
        self.problems.is_partial = true;
        self.warnings.is_partial = true;
    }

    /// Number of distinct problems.
    pub fn len(&self) -> usize {
        self.problems.seen.len()
    }

    pub fn is_empty(&self) -> bool {
        self.problems.seen.is_empty()
    }

    /// The text ", did you mean ...?" for each of the first [`MAX_HINTS`] words; comparing all
    /// words with each other would take too long.
    pub fn hint<'c>(
        &mut self,
        word: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> String {
        self.hints += 1;
        if self.hints > MAX_HINTS {
            String::new()
        } else {
            did_you_mean(word, candidates)
        }
    }

    /// The problems and the warnings, each in order of position, without repetitions, at most
    /// [`MAX_PROBLEMS`]; if there are more, the last one states how many are not listed.
    pub fn into_sorted(self, yaml: &str) -> (Vec<Problem>, Vec<Problem>) {
        (
            self.problems.into_sorted(yaml, "problems"),
            self.warnings.into_sorted(yaml, "warnings"),
        )
    }
}

fn found(pos: Pos, path: String, message: String, inside: Option<(u32, u32)>) -> Finding {
    Finding {
        problem: Problem {
            line: pos.line,
            column: pos.column,
            path,
            message,
        },
        inside,
    }
}

/// The path of a key of the mapping at `path`.
pub(crate) fn child(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && shorten(key) == key
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-$".contains(&byte));
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{:?}]", shorten(key)),
    }
}

/// The path of an item of the list at `path`; `index` is from 0.
pub(crate) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_shown_as_position_path_message() {
        let problem = Problem {
            line: 12,
            column: 5,
            path: "step_templates[2].name".into(),
            message: "is missing".into(),
        };
        assert_eq!(
            problem.to_string(),
            "line 12, column 5: step_templates[2].name: is missing"
        );
        let whole = Problem {
            path: String::new(),
            ..problem
        };
        assert_eq!(whole.to_string(), "line 12, column 5: is missing");
    }

    #[test]
    fn path_quotes_keys_that_are_not_plain_words() {
        assert_eq!(child("", "schema"), "schema");
        assert_eq!(child("schema.properties", "$ref"), "schema.properties.$ref");
        assert_eq!(child("a", "b.c"), "a[\"b.c\"]");
        assert_eq!(item("a", 3), "a[3]");
    }

    #[test]
    fn problems_are_sorted_and_capped() {
        let mut problems = Problems::default();
        for line in (1..=101).rev() {
            problems.add(Pos { line, column: 1 }, "a", "b");
            problems.add(Pos { line, column: 1 }, "a", "b");
            problems.warn(Pos { line, column: 1 }, "a", "w");
        }
        let (list, warnings) = problems.into_sorted("");
        assert_eq!(list.len(), MAX_PROBLEMS);
        assert_eq!(list[98].line, 99);
        assert_eq!(
            list[99].to_string(),
            "line 100, column 1: 2 more problems from here on are not listed"
        );
        assert_eq!(
            warnings[99].to_string(),
            "line 100, column 1: 2 more warnings from here on are not listed"
        );
    }

    #[test]
    fn problems_first_by_position_are_listed_and_counted_once() {
        let mut problems = Problems::default();
        for _ in 0..2 {
            (2..=5_000)
                .rev()
                .for_each(|line| problems.add(Pos { line, column: 1 }, "a", "b"));
        }
        problems.add(Pos::START, "a", "b");
        let mut own = Problems::default();
        own.add(Pos::START, "a", "b");
        own.add(Pos { line: 3, column: 7 }, "a", "c");
        (1..=200).for_each(|line| {
            own.add(
                Pos {
                    line: 6_000 + line,
                    column: 1,
                },
                "a",
                "c",
            );
        });
        problems.add_all_in("test", own);
        assert_eq!(problems.len(), 5_201);
        let (list, _) = problems.into_sorted("");
        assert_eq!(
            (list[0].line, list[3].message.as_str()),
            (1, "c (in the environment `test`)")
        );
        assert_eq!(
            list[99].message,
            "5102 more problems from here on are not listed"
        );
    }

    #[test]
    fn problems_beyond_the_count_are_reported_as_at_least() {
        let most = MAX_COUNTED as u32;
        for (lines, says) in [(most, "99901 more"), (most + 1, "at least 99901 more")] {
            let mut problems = Problems::default();
            (1..=lines).for_each(|line| problems.add(Pos { line, column: 1 }, "a", "b"));
            let last = problems.into_sorted("").0.pop().unwrap();
            assert!(last.message.starts_with(says), "{}", last.message);
        }
    }
}
