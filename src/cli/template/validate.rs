//! `tasker template validate`: all the problems of a file, without a server.

use std::{
    fs::File,
    io::{self, Read as _},
};

use serde_json::{Value, json};
use tasker_template::{Checked, MAX_TEMPLATE_BYTES, Problem, Template};

use super::files;
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        render::term::clean,
    },
    proto,
};

/// Check templates without storing them; needs no server
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template validate registration.yaml
  tasker template validate templates/
  git show HEAD:registration.yaml | tasker template validate -

A folder stands for its *.yaml and *.yml files, in the order of their names. Every problem is a line `FILE:LINE:COLUMN: PATH: MESSAGE` on stdout, every warning a line `FILE:LINE:COLUMN: warning: PATH: MESSAGE`. \
The exit code is 65 if there is a problem, or with --deny-warnings a warning; 1 if a file cannot be read.")]
pub struct Args {
    /// YAML files, or folders with them; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Environment in which templates are shown; all of a file's environments are checked in any
    /// case
    #[arg(
        long,
        value_name = "NAME",
        env = "TASKER_ENVIRONMENT",
        default_value = "",
        hide_default_value = true
    )]
    environment: String,
    /// Treat a warning as a problem
    #[arg(long)]
    deny_warnings: bool,
}

/// A file that was read: its name, its text, and the result of its check.
type Read = (String, String, Checked);

pub fn run(args: &Args, session: &Session) -> Result<u8, CliError> {
    let (checked, unreadable) = check(&args.files, &args.environment)?;
    if session.json() {
        session
            .term
            .json(&json!({"files": checked.iter().map(|read| document(read, args.deny_warnings)).collect::<Vec<_>>()}))?;
    }
    let mut found = Found::default();
    for (file, _, result) in &checked {
        let refused = found.add(result, args.deny_warnings);
        let has_lines = !result.problems.is_empty() || !result.warnings.is_empty();
        if has_lines && !session.json() {
            session.term.data(&lines(file, result))?;
        }
        if let Some(template) = result.template.as_ref().filter(|_| !refused) {
            session
                .term
                .say(&format!("{}: valid: {}", clean(file), summary(template)));
        }
    }
    found.verdict(unreadable, session)?;
    Ok(exit::OK)
}

/// Reads and checks the files, and returns each with its text. Prints the problems of invalid
/// files, and the warnings where they are denied.
pub fn read_all(
    files: &[String],
    deny_warnings: bool,
    session: &Session,
) -> Result<Vec<(String, String)>, CliError> {
    // Without an environment: the server resolves the templates in its own.
    let (mut checked, unreadable) = check(files, "")?;
    let mut found = Found::default();
    for (file, _, result) in &mut checked {
        if !deny_warnings {
            result.warnings.clear(); // The server reports them too, for its environment.
        }
        if found.add(result, deny_warnings) {
            session.term.say(&lines(file, result));
        }
    }
    found.verdict(unreadable, session)?;
    Ok(checked
        .into_iter()
        .map(|(file, text, _)| (file, text))
        .collect())
}

/// Checks every file that can be read; each of the others becomes an error.
fn check(named: &[String], environment: &str) -> Result<(Vec<Read>, Vec<CliError>), CliError> {
    let (mut checked, mut unreadable) = (Vec::new(), Vec::new());
    for file in files::expand(named)? {
        match read(&file) {
            Ok(Ok(text)) => {
                let found = Template::check(&text, environment);
                checked.push((file, text, found));
            }
            Ok(Err(problem)) => {
                let found = Checked {
                    template: None,
                    problems: vec![problem],
                    problems_total: 1,
                    warnings: Vec::new(),
                };
                checked.push((file, String::new(), found));
            }
            // An unreadable file is no problem of a template and has another exit code.
            Err(error) => unreadable.push(error),
        }
    }
    Ok((checked, unreadable))
}

/// The totals over all files.
#[derive(Default)]
struct Found {
    problems: usize,
    warnings: usize,
    files: usize,
}

impl Found {
    /// Counts a file's problems, and its warnings if they are denied; false if the file is not
    /// refused.
    fn add(&mut self, result: &Checked, deny_warnings: bool) -> bool {
        if deny_warnings {
            self.warnings += result.warnings.len();
        }
        self.problems += result.problems_total;
        let refused = is_refused(result, deny_warnings);
        self.files += usize::from(refused);
        refused
    }

    /// Returns the last error, if there is one, and prints those before it.
    fn verdict(&self, mut unreadable: Vec<CliError>, session: &Session) -> Result<(), CliError> {
        // The last error decides the exit code, and a refused file counts more than an unreadable
        // one.
        let last = self.refusal().or_else(|| unreadable.pop());
        unreadable.iter().for_each(|error| error.say(&session.term));
        last.map_or(Ok(()), Err)
    }

    fn refusal(&self) -> Option<CliError> {
        let found = match (self.problems, self.warnings) {
            (0, 0) => return None,
            (problems, 0) => plural(problems, "problem"),
            (0, warnings) => plural(warnings, "warning"),
            (problems, warnings) => format!(
                "{} and {}",
                plural(problems, "problem"),
                plural(warnings, "warning")
            ),
        };
        Some(CliError::new(
            exit::DATA,
            format!("{found} in {}", plural(self.files, "file")),
        ))
    }
}

/// Whether a file has a problem, or a warning where these are denied.
fn is_refused(result: &Checked, deny_warnings: bool) -> bool {
    result.problems_total > 0 || (deny_warnings && !result.warnings.is_empty())
}

fn plural(n: usize, word: &str) -> String {
    match n {
        1 => format!("1 {word}"),
        _ => format!("{n} {word}s"),
    }
}

fn summary(template: &Template) -> String {
    clean(&format!(
        "{}/{}@{}, {}",
        template.namespace,
        template.task_name,
        template.version,
        plural(template.steps.len(), "step")
    ))
}

/// The format that editors and CI parse, one problem or warning per line.
fn lines(file: &str, result: &Checked) -> String {
    let problems = result.problems.iter().map(|p| line(file, "", p));
    let warnings = result.warnings.iter().map(|p| line(file, "warning: ", p));
    problems.chain(warnings).collect::<Vec<_>>().join("\n")
}

/// One problem as a line; `kind` marks a warning.
fn line(file: &str, kind: &str, p: &Problem) -> String {
    let path = if p.path.is_empty() {
        String::new()
    } else {
        format!("{}: ", p.path)
    };
    clean(&format!(
        "{file}:{}:{}: {kind}{path}{}",
        p.line, p.column, p.message
    ))
}

/// A warning from the server in the same format.
pub fn warning(file: &str, p: &proto::TemplateProblem) -> String {
    let number = |n: i32| u32::try_from(n).unwrap_or_default();
    let (path, message) = (p.path.clone(), p.message.clone());
    line(
        file,
        "warning: ",
        &Problem {
            line: number(p.line),
            column: number(p.column),
            path,
            message,
        },
    )
}

fn document((file, _, result): &Read, deny_warnings: bool) -> Value {
    json!({
        "file": file,
        "valid": !is_refused(result, deny_warnings),
        "problems": list(&result.problems),
        "problems_total": result.problems_total,
        "warnings": list(&result.warnings),
    })
}

fn list(problems: &[Problem]) -> Vec<Value> {
    let all = problems.iter();
    all.map(|p| json!({"line": p.line, "column": p.column, "path": p.path, "message": p.message}))
        .collect()
}

/// Reads a template's text, up to one byte beyond the bound. A text that is too long or not UTF-8
/// becomes a problem like any other.
fn read(file: &str) -> Result<Result<String, Problem>, CliError> {
    let failed = |e: io::Error| {
        let error = CliError::new(exit::FAILURE, format!("cannot read {}: {e}", clean(file)));
        error.hint("check the name of the file and its permissions; `-` is stdin")
    };
    let mut source: Box<dyn io::Read> = match file {
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    // One byte beyond the bound suffices to detect a file that is too long.
    source
        .by_ref()
        .take(MAX_TEMPLATE_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > MAX_TEMPLATE_BYTES {
        return Ok(Err(of_file(format!(
            "a template has at most {MAX_TEMPLATE_BYTES} bytes"
        ))));
    }
    Ok(String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        of_file(format!(
            "not UTF-8 after {valid} bytes: save the file as UTF-8"
        ))
    }))
}

/// A problem of the whole file.
fn of_file(message: String) -> Problem {
    Problem {
        line: 1,
        column: 1,
        path: String::new(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_is_printed_as_file_line_column() {
        let problem = |path: &str, message: &str| Problem {
            line: 3,
            column: 7,
            path: path.into(),
            message: message.into(),
        };
        let result = Checked {
            template: None,
            problems: vec![
                problem("step_templates[0].name", "is missing"),
                problem("", "is\nempty"),
            ],
            problems_total: 2,
            warnings: vec![problem("concurrent", "is not used")],
        };
        assert_eq!(
            lines("a.yaml", &result),
            "a.yaml:3:7: step_templates[0].name: is missing\na.yaml:3:7: is empty\na.yaml:3:7: warning: concurrent: is not used"
        );
    }

    #[test]
    fn summary_counts_problems_and_warnings() {
        let message = |problems, warnings, files| {
            Found {
                problems,
                warnings,
                files,
            }
            .refusal()
            .map(|e| e.message)
        };
        assert_eq!(message(0, 0, 0), None);
        assert_eq!(message(1, 0, 1).as_deref(), Some("1 problem in 1 file"));
        assert_eq!(message(0, 2, 1).as_deref(), Some("2 warnings in 1 file"));
        assert_eq!(
            message(3, 1, 2).as_deref(),
            Some("3 problems and 1 warning in 2 files")
        );
    }

    #[test]
    fn absent_file_is_named_in_the_error() {
        let error = read("/no/such.yaml").expect_err("absent");
        assert!(
            error.message.starts_with("cannot read /no/such.yaml: "),
            "{error}"
        );
    }
}
