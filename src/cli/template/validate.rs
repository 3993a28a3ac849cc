//! `tasker template validate`: all the problems of a file, without a server.

use std::{
    fs::File,
    io::{self, Read as _},
};

use serde_json::{Value, json};

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        term::clean,
    },
    domain::template::{MAX_TEMPLATE_BYTES, Problem, Template},
};

/// Check templates without storing them; needs no server
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template validate registration.yaml
  tasker template validate templates/*.yaml
  git show HEAD:registration.yaml | tasker template validate -

Every problem is a line `FILE:LINE:COLUMN: PATH: MESSAGE` on stdout. The exit code is 65 when there is one.")]
pub struct Args {
    /// YAML files; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Show them as they are in this environment; all of a file's environments are checked in any case
    #[arg(long, value_name = "NAME", env = "TASKER_ENVIRONMENT", default_value = "", hide_default_value = true)]
    environment: String,
}

pub fn run(args: &Args, session: &Session) -> Result<u8, CliError> {
    let mut checked = Vec::new();
    for file in &args.files {
        checked.push((file.as_str(), Template::parse(&read(file)?, &args.environment)));
    }
    let invalid = checked.iter().filter(|(_, result)| result.is_err()).count();
    if session.json() {
        session.term.json(&json!({"files": checked.iter().map(document).collect::<Vec<_>>()}))?;
    }
    for (file, result) in &checked {
        match result {
            Ok(template) => session.term.say(&format!("{}: valid: {}", clean(file), summary(template))),
            Err(problems) if !session.json() => session.term.data(&lines(file, problems))?,
            Err(_) => {}
        }
    }
    if invalid == 0 {
        return Ok(exit::OK);
    }
    let problems: usize = checked.iter().filter_map(|(_, r)| r.as_ref().err()).map(Vec::len).sum();
    Err(refusal(problems, invalid))
}

/// Reads and checks the files; prints the problems of those that are not valid.
pub fn read_all(files: &[String], session: &Session) -> Result<Vec<String>, CliError> {
    let (mut texts, mut invalid, mut count) = (Vec::new(), 0, 0);
    for file in files {
        let text = read(file)?;
        if let Err(problems) = Template::parse(&text, "") {
            invalid += 1;
            count += problems.len();
            session.term.say(&lines(file, &problems));
        }
        texts.push(text);
    }
    if invalid == 0 { Ok(texts) } else { Err(refusal(count, invalid)) }
}

fn refusal(problems: usize, files: usize) -> CliError {
    let plural = |n: usize, word: &str| if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") };
    CliError::new(exit::DATA, format!("{} in {}", plural(problems, "problem"), plural(files, "file")))
}

fn summary(template: &Template) -> String {
    let steps = template.steps.len();
    let plural = if steps == 1 { "" } else { "s" };
    clean(&format!("{}/{}@{}, {steps} step{plural}", template.namespace, template.task_name, template.version))
}

/// The form that editors and CI understand, one problem a line.
fn lines(file: &str, problems: &[Problem]) -> String {
    let line = |p: &Problem| {
        let path = if p.path.is_empty() { String::new() } else { format!("{}: ", p.path) };
        clean(&format!("{file}:{}:{}: {path}{}", p.line, p.column, p.message))
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn document((file, result): &(&str, Result<Template, Vec<Problem>>)) -> Value {
    let problem = |p: &Problem| json!({"line": p.line, "column": p.column, "path": p.path, "message": p.message});
    let problems = result.as_ref().err().map(Vec::as_slice).unwrap_or_default();
    json!({"file": file, "valid": result.is_ok(), "problems": problems.iter().map(problem).collect::<Vec<_>>()})
}

/// Reads a template's text, and not much more than a template can have.
fn read(file: &str) -> Result<String, CliError> {
    let failed = |e: io::Error| CliError::new(exit::FAILURE, format!("cannot read {}: {e}", clean(file)));
    let mut source: Box<dyn io::Read> = match file {
        "-" => Box::new(io::stdin()),
        path => Box::new(File::open(path).map_err(failed)?),
    };
    let mut bytes = Vec::new();
    // One byte too many is enough for the parser to say that there are too many.
    source.by_ref().take(MAX_TEMPLATE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_TEMPLATE_BYTES {
        let message = format!("{}: a template has at most {MAX_TEMPLATE_BYTES} bytes", clean(file));
        return Err(CliError::new(exit::DATA, message));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        CliError::new(exit::DATA, format!("{}: not UTF-8 after {at} bytes", clean(file)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_line_that_editors_understand() {
        let problem =
            |path: &str, message: &str| Problem { line: 3, column: 7, path: path.into(), message: message.into() };
        assert_eq!(
            lines("a.yaml", &[problem("step_templates[0].name", "is missing"), problem("", "is\nempty")]),
            "a.yaml:3:7: step_templates[0].name: is missing\na.yaml:3:7: is empty"
        );
    }

    #[test]
    fn the_summary_counts() {
        assert_eq!(refusal(1, 1).message, "1 problem in 1 file");
        assert_eq!(refusal(3, 2).message, "3 problems in 2 files");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read("/no/such.yaml").expect_err("absent");
        assert!(error.message.starts_with("cannot read /no/such.yaml: "), "{error}");
    }
}
