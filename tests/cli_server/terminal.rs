//! Text from a server is shown and never interpreted: no command prints a control character, or one
//! that reorders text.

use serde_json::{Value, json};
use tasker::proto;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::{
    run,
    support::{
        server::Bench,
        worker::{RawWorker, permanent},
    },
    tasker,
};

/// Colours and clears a screen with and without ESC, and reverses the direction of text.
const HOSTILE: &str = "a\u{9b}31m\u{202e}\u{1b}[2J\u{7f}\u{2066}\u{2028}\u{200f}z";

/// A template with a hostile description and a hostile mark in a comment.
fn yaml() -> String {
    let description = json!(HOSTILE)
        .to_string()
        .replace('\u{9b}', "\\u009b")
        .replace('\u{7f}', "\\u007f");
    format!(
        "# \u{202e} turned around\n\
         {{task_name: odd, namespace: t, version: 1.0.0, description: {description}, schema: {{type: object,\n\
         properties: {{n: {{type: integer, description: {description}}}}}}}, step_templates: [\n\
         {{name: a, handler_class: h, description: {description}, handler_config: {{service: s, note: {description}}}}}]}}\n"
    )
}

fn harmless(what: &str, text: &str) {
    let acted_on = |c: &char| {
        let marks = matches!(*c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() && *c != '\n') || marks
    };
    let found: Vec<char> = text.chars().filter(acted_on).collect();
    assert!(found.is_empty(), "{what} lets through {found:?}: {text}");
}

/// A task that failed, with hostile text in every free field.
async fn failed(bench: &mut Bench) -> String {
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let request = proto::SubmitTaskRequest {
        annotations_json: json!({"note": HOSTILE, HOSTILE: 1}).to_string(),
        context_json: json!({"text": HOSTILE, HOSTILE: [HOSTILE]}).to_string(),
        ..super::support::server::submission("t/odd", "{}")
    };
    let id = bench
        .client
        .tasks
        .submit_task(request)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let a = worker.assignment().await;
    let mut outcome = permanent(HOSTILE, "ODD");
    if let proto::step_result::Outcome::PermanentError(error) = &mut outcome {
        error.context_json = json!({"text": HOSTILE}).to_string();
    }
    worker.settle(&a, outcome).await;
    bench.finished(&id).await;
    id
}

#[tokio::test]
async fn output_of_every_command_escapes_control_characters() {
    let mut bench = Bench::with(&yaml()).await;
    let id = failed(&mut bench).await;
    let who = ["--by", "ann", "--reason", HOSTILE];
    let tasker_at = |args: &[&str]| -> Command {
        let mut command = tasker(args);
        command.env("TASKER_SERVER", &bench.server.url);
        command
    };
    // The orders come first, so that the later reads show them.
    for order in [
        &[&["template", "pause", "t/odd"][..], &who].concat(),
        &[&["circuit", "force", "open", "t", "s"][..], &who].concat(),
        &[&["task", "retry", &id][..], &who].concat(),
        &[&["task", "pause", &id][..], &who].concat(),
        &["template", "list"][..],
        &["template", "show", "t/odd"],
        &["template", "pauses"],
        &["task", "list"],
        &["task", "get", &id],
        &["task", "explain", &id],
        &["circuit", "list"],
        &["circuit", "get", "t", "s"],
        &["analytics", "performance"],
        &["analytics", "bottlenecks"],
        &[&["task", "cancel", &id][..], &who].concat(),
        &["task", "watch", &id],
    ] {
        for more in [&[][..], &["--json"]] {
            let args = [order, more].concat();
            let ended = run(tasker_at(&args)).await;
            assert!(matches!(ended.code, Some(0 | 4)), "{args:?}: {ended:?}");
            harmless(&format!("{args:?}"), &(ended.stdout + &ended.stderr));
        }
    }
    for wrong in [
        &[
            "task",
            "submit",
            "t/odd",
            "--context",
            &json!({"n": HOSTILE}).to_string(),
        ][..],
        &["task", "submit", &format!("t/{HOSTILE}")],
        &["task", "skip", &id, "--step", HOSTILE, "--reason", "why"],
        &["circuit", "get", "t", HOSTILE],
        &["template", "validate", HOSTILE],
    ] {
        let ended = run(tasker_at(wrong)).await;
        assert!(!matches!(ended.code, Some(0)), "{wrong:?}: {ended:?}");
        harmless(&format!("{wrong:?}"), &(ended.stdout + &ended.stderr));
    }
    // Escaped text keeps its meaning.
    let got: Value =
        serde_json::from_str(&run(tasker_at(&["task", "get", &id, "--json"])).await.ok()).unwrap();
    assert_eq!(
        (
            &got["task"]["context"]["text"],
            &got["task"]["annotations"]["note"]
        ),
        (&json!(HOSTILE), &json!(HOSTILE))
    );
}

#[tokio::test]
async fn events_and_templates_on_a_terminal_escape_control_characters() {
    let mut bench = Bench::with(&yaml()).await;
    failed(&mut bench).await;
    for more in [&[][..], &["--json"]] {
        let mut tail = tasker([&["events", "tail", "--from", "beginning"][..], more].concat());
        tail.env("TASKER_SERVER", &bench.server.url)
            .stdout(std::process::Stdio::piped());
        let mut tail = tail.spawn().unwrap();
        let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            harmless("events tail", &line);
            if line.contains("task.failed") {
                break;
            }
        }
        tail.kill().await.unwrap();
    }
    // A file gets every byte; a terminal does not.
    let show = ["template", "show", "t/odd", "--yaml"];
    let mut piped = tasker(show);
    piped.env("TASKER_SERVER", &bench.server.url);
    assert_eq!(run(piped).await.ok(), yaml());
    let mut typed = Command::new("script");
    let line = format!("{} {}", env!("CARGO_BIN_EXE_tasker"), show.join(" "));
    typed
        .args(["-qec", &line, "/dev/null"])
        .env("TASKER_SERVER", &bench.server.url)
        .env("LC_ALL", "C.UTF-8");
    let shown = run(typed).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(
        shown.stdout.contains("# \\u{202e} turned around") && !shown.stdout.contains('\u{202e}'),
        "{shown:?}"
    );
}
