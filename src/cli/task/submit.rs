//! `tasker task submit`.

use std::{
    fs,
    io::{self, Read as _},
};

use prost_types::Timestamp;
use serde_json::Value;
use tasker_template::json_text;

use super::watch;
use crate::{
    cli::{
        Session,
        args::{reference::TemplateRef, when::later},
        error::{CliError, exit},
        render::term::clean,
    },
    json,
    proto::{SubmitTaskRequest, SubmitTaskResponse},
};

/// Start a task
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task submit user_management/user_registration \\
      --context '{\"email\": \"a@example.org\", \"name\": \"A\"}'
  tasker task submit shop/checkout@1.2.0 --context @order.json --watch
  tasker task submit shop/reminder --not-before 2h
  jq .order < big.json | tasker task submit shop/checkout --context - --idempotency-key order-4711

Prints the task's id once the task is stored. With an idempotency key, a second submit with the same content prints the id of the first task and starts nothing; --not-before may differ, and the first task keeps its own.")]
pub struct Args {
    /// Template to run
    #[arg(value_name = "NAMESPACE/NAME[@VERSION]")]
    template: TemplateRef,
    /// Version of the template; without it, the newest one that is not retired
    #[arg(long, value_name = "SEMVER")]
    version: Option<String>,
    /// The input: a JSON object, `@FILE` to read one, or `-` for stdin; without it, `{}`
    #[arg(long, value_name = "JSON")]
    context: Option<String>,
    /// The input, from a file; `-` is stdin
    #[arg(long, value_name = "FILE", conflicts_with = "context")]
    context_file: Option<String>,
    /// Tasks of a higher priority are served first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-100..=100))]
    priority: i32,
    /// No step starts before this time: RFC 3339, or how long from now (`90s`, `10m`, `2h`, `7d`)
    #[arg(long, value_name = "WHEN", value_parser = later)]
    not_before: Option<Timestamp>,
    /// Makes the submit safe to repeat; unique within the namespace
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Id that ties the task to related work; without it, the context's `correlation_id`, or a new
    /// one
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Annotation of the task; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation)]
    annotations: Vec<(String, String)>,
    /// Then wait for the task, as `tasker task watch` does
    #[arg(long)]
    watch: bool,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let what = format!("cannot submit {}", args.template);
    let watch = args.watch;
    // Before the connection: a wrong argument is reported without a server.
    let request = request(args)?;
    let mut client = session.connect().await?;
    let (namespace, task_name) = (request.namespace.clone(), request.task_name.clone());
    let mut request = tonic::Request::new(request);
    // A program that runs commands within a trace passes its context in this variable. A value that
    // is no header is ignored, as a trace must not fail a submit.
    if let Some(parent) = std::env::var("TRACEPARENT")
        .ok()
        .and_then(|text| text.parse().ok())
    {
        request.metadata_mut().insert("traceparent", parent);
    }
    let response = client.tasks.submit_task(request).await;
    let submitted = response
        .map_err(|s| CliError::from_status(&what, &s))?
        .into_inner();
    // A line and not a document, as the lines of `--watch` follow.
    if session.json() {
        session.term.json_line(&json::value(&submitted))?;
    } else {
        session.term.data(&clean(&submitted.task_id))?;
        session
            .term
            .say(&talk(&namespace, &task_name, &submitted, watch));
    }
    if watch {
        watch::watch(client, &submitted.task_id, session).await
    } else {
        Ok(exit::OK)
    }
}

fn talk(namespace: &str, task_name: &str, submitted: &SubmitTaskResponse, watch: bool) -> String {
    let SubmitTaskResponse {
        task_id,
        created,
        correlation_id,
        version,
    } = submitted;
    let name = clean(&format!("{namespace}/{task_name}@{version}"));
    let mut talk = match created {
        true => format!("submitted {name}, correlation id {}", clean(correlation_id)),
        false => {
            format!("{name} was submitted with this idempotency key before; this is the first task")
        }
    };
    if !watch {
        talk += &format!("\nwatch it with `tasker task watch {}`", clean(task_id));
    }
    talk
}

fn request(args: Args) -> Result<SubmitTaskRequest, CliError> {
    let TemplateRef {
        namespace,
        name: task_name,
        version,
    } = args.template;
    let version = match (version, args.version) {
        (at, None) => at,
        // The same version twice is no contradiction.
        (at, Some(option)) if at.is_empty() || at == option => option,
        (at, Some(option)) => {
            return Err(CliError::new(
                exit::USAGE,
                format!("two versions are given: {at} and {}", clean(&option)),
            ));
        }
    };
    let annotations: serde_json::Map<String, Value> = args
        .annotations
        .into_iter()
        .map(|(k, v)| (k, v.into()))
        .collect();
    Ok(SubmitTaskRequest {
        namespace,
        task_name,
        version,
        context_json: context(args.context, args.context_file)?,
        priority: args.priority,
        idempotency_key: args.idempotency_key.unwrap_or_default(),
        correlation_id: args.correlation_id.unwrap_or_default(),
        annotations_json: if annotations.is_empty() {
            String::new()
        } else {
            Value::Object(annotations).to_string()
        },
        not_before: args.not_before,
    })
}

/// Reads the context's text, which is sent unchanged. A text that is no JSON object is refused
/// here, where the error can name its source.
fn context(inline: Option<String>, file: Option<String>) -> Result<String, CliError> {
    let (source, text) = match (inline, file) {
        (None, None) => return Ok(String::new()),
        (Some(inline), _) => given("--context", inline)?,
        (None, Some(path)) => (path.clone(), read(&path)?),
    };
    // Its own length is the limit here: the server enforces the bound on the size.
    json_text::check_object(&text, text.len()).map_err(|e| {
        CliError::new(
            exit::DATA,
            clean(&format!("{source}: the context is wrong: {e}")),
        )
    })?;
    Ok(text)
}

/// The source of a document and its text: the option's own value, `@FILE`, or `-` for stdin (also
/// `@-`).
pub fn given(option: &str, inline: String) -> Result<(String, String), CliError> {
    Ok(match inline.strip_prefix('@') {
        Some(path) => (path.to_owned(), read(path)?),
        // A mere `-` is no JSON document.
        None if inline == "-" => (inline.clone(), read(&inline)?),
        None => (option.to_owned(), inline),
    })
}

fn read(path: &str) -> Result<String, CliError> {
    let mut text = String::new();
    let done = match path {
        "-" => io::stdin().read_to_string(&mut text).map(drop),
        path => fs::read_to_string(path).map(|t| text = t),
    };
    match done {
        Ok(()) => Ok(text),
        Err(e) => {
            let error = CliError::new(exit::FAILURE, format!("cannot read {}: {e}", clean(path)));
            Err(error.hint("check the name of the file and its permissions; `-` is stdin"))
        }
    }
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &[&str]) -> Result<SubmitTaskRequest, CliError> {
        let line = Line::try_parse_from(["submit", "shop/checkout@1.0.0"].iter().chain(line))
            .expect("a valid line");
        request(line.args)
    }

    #[test]
    fn submit_options_fill_the_request() {
        let line = [
            "--context",
            r#"{"n": 9007199254740993}"#,
            "--priority",
            "-5",
            "--annotation",
            "a=1",
            "--annotation",
            "b=x=y",
        ];
        let request = parse(&line).expect("a request");
        assert_eq!(request.version, "1.0.0");
        assert_eq!(request.context_json, r#"{"n": 9007199254740993}"#);
        assert_eq!(request.priority, -5);
        assert_eq!(request.annotations_json, r#"{"a":"1","b":"x=y"}"#);
        assert_eq!(parse(&[]).expect("a request").context_json, "");
    }

    #[test]
    fn submit_with_invalid_json_or_two_versions_has_distinct_exit_codes() {
        let error = parse(&["--context", "{\"a\": }"]).expect_err("broken");
        assert_eq!(error.code, exit::DATA);
        assert!(error.message.contains("line 1, column 7"), "{error}");
        assert_eq!(
            parse(&["--version", "2.0.0"])
                .expect_err("two versions")
                .code,
            exit::USAGE
        );
        // The tests' stdin is absent or empty; in either case the refused text is not `-` itself.
        assert!(
            !parse(&["--context", "-"])
                .expect_err("nothing")
                .message
                .contains("--context")
        );
        assert_eq!(
            parse(&["--context", "@/no/such.json"])
                .expect_err("absent")
                .code,
            exit::FAILURE
        );
    }
}
