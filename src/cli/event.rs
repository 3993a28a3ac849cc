//! `tasker events tail`.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use tasker_worker::client::Client;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Session,
    error::{CliError, exit, is_passing},
    render::{
        human,
        term::{Term, clean, style},
    },
};
use crate::{
    json,
    proto::{Event, EventType, StartFrom, SubscribeRequest, SubscribeResponse},
};

/// A tail whose connection broke continues if a server answers within this time.
const RECONNECT_FOR: Duration = Duration::from_secs(60);
/// Pause between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Columns of the longest type name, `circuit.policy_changed`.
const TYPE_COLUMNS: usize = 22;

#[derive(Debug, Subcommand)]
pub enum Command {
    Tail(Args),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    Now,
    Beginning,
}

/// Print events as they happen
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker events tail --type step.failed,step.retrying
  tasker events tail --from beginning --task 01980f4e-7c1a-7b3e-9d55-0242ac120002
  tasker events tail --json | tee -a events.jsonl
  tasker events tail --json --cursor \"$(tail -n 1 events.jsonl | jq -r .cursor)\" >> events.jsonl

Each line of --json has the cursor after its event: with the last of them as --cursor, the next tail continues there, at any server, without a gap or a repetition. The tail reconnects when a server restarts, and ends on Ctrl-C.")]
pub struct Args {
    /// Where to begin
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "now",
        conflicts_with = "cursor"
    )]
    from: From,
    /// Begin after this cursor
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
    /// Only events of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only events of tasks with this name
    #[arg(long, value_name = "NAME", alias = "name")]
    task_name: Option<String>,
    /// Only events of these types, such as `step.failed`; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', value_parser = event_type)]
    types: Vec<EventType>,
    /// Only events of steps that call this service
    #[arg(long)]
    service: Option<String>,
    /// Only events of this task
    #[arg(long, value_name = "TASK_ID")]
    task: Option<Uuid>,
    /// Only events of tasks with this correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
}

fn event_type(text: &str) -> Result<EventType, String> {
    // The numbers of the types have no gap, and 0 is the unspecified one.
    let all = || (1..).map_while(|number| EventType::try_from(number).ok());
    all()
        .find(|kind| human::event_type((*kind).into()) == text)
        .ok_or_else(|| {
            format!(
                "expected one of {}",
                all()
                    .map(|kind| human::event_type(kind.into()))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        })
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    let Command::Tail(args) = command;
    let client = session.connect().await?;
    let mut request = request(args);
    let end = tokio::select! {
        // First, so that the handler of Ctrl-C is in place before the tail starts.
        biased;
        _ = tokio::signal::ctrl_c() => Ok(exit::INTERRUPTED),
        error = tail(client, &mut request, session) => Err(error),
    };
    // In JSON each line has the cursor already.
    if end.is_ok() && !session.json() && !request.cursor.is_empty() {
        session.term.say(&format!(
            "continue from here with --cursor {}",
            clean(&request.cursor)
        ));
    }
    end
}

fn request(args: Args) -> SubscribeRequest {
    let start_from = match (&args.cursor, args.from) {
        // The server refuses a start beside a cursor.
        (Some(_), _) => StartFrom::Unspecified,
        (None, From::Now) => StartFrom::Now,
        (None, From::Beginning) => StartFrom::Beginning,
    };
    SubscribeRequest {
        cursor: args.cursor.unwrap_or_default(),
        start_from: start_from.into(),
        namespace: args.namespace.unwrap_or_default(),
        task_name: args.task_name.unwrap_or_default(),
        types: args.types.into_iter().map(Into::into).collect(),
        service: args.service.unwrap_or_default(),
        task_id: args.task.map(|id| id.to_string()).unwrap_or_default(),
        correlation_id: args.correlation_id.unwrap_or_default(),
    }
}

/// Prints events until an error ends the tail; `request` always names the place to resume from.
async fn tail(mut client: Client, request: &mut SubscribeRequest, session: &Session) -> CliError {
    let (mut heard, mut lost_since) = (false, None::<Instant>);
    loop {
        let broken = match client.events.subscribe(request.clone()).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(response)) => {
                            (heard, lost_since) = (true, None);
                            if let Err(error) = print(&response, session) {
                                return error;
                            }
                            // After the print: an event whose output failed is received again by
                            // the next tail.
                            request.cursor = response.cursor;
                            request.start_from = StartFrom::Unspecified.into();
                        }
                        Ok(None) => {
                            break tonic::Status::unavailable("the server ended the stream");
                        }
                        Err(status) => break status,
                    }
                }
            }
        };
        // Only a subscription that delivered once is retried: an error before that may blame the
        // request.
        let patient = lost_since.is_none_or(|since| since.elapsed() < RECONNECT_FOR);
        if !heard || !patient || !is_passing(&broken) {
            return CliError::from_status("cannot subscribe to events", &broken);
        }
        if lost_since.is_none() {
            lost_since = Some(Instant::now());
            session.term.say(&format!(
                "the connection is lost ({}); reconnecting",
                clean(broken.message())
            ));
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

fn print(response: &SubscribeResponse, session: &Session) -> Result<(), CliError> {
    // A message without an event only moves the cursor.
    let Some(event) = &response.event else {
        return Ok(());
    };
    match session.json() {
        true => {
            let mut document = json::value(event);
            document["cursor"] = response.cursor.as_str().into();
            session.term.json_line(&document)?;
        }
        false => session.term.data(&(line(event, &session.term) + "\n"))?,
    }
    Ok(())
}

/// `TIME  TYPE  TEMPLATE  TASK  STEP  NOTE`, without the parts that do not apply.
fn line(event: &Event, term: &Term) -> String {
    let kind = human::event_type(event.r#type);
    let style = match event.r#type() {
        EventType::TaskCompleted | EventType::StepCompleted => style::GREEN,
        EventType::TaskFailed
        | EventType::StepFailed
        | EventType::WorkerLost
        | EventType::CircuitOpened => style::RED,
        EventType::StepRetrying => style::YELLOW,
        _ => style::DIM,
    };
    let template = match event.task_name.as_str() {
        "" => String::new(),
        name => clean(&format!("{}/{name}@{}", event.namespace, event.version)),
    };
    let parts = [
        human::time_or_dash(event.at),
        term.paint(style, &format!("{kind:TYPE_COLUMNS$}")),
        template,
        clean(&event.task_id),
        clean(&event.step),
        note(event),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("  ")
}

/// The event's further details, such as `attempt 2, ran 1.2 s, HTTP_429: slow down, next at …`.
fn note(event: &Event) -> String {
    let ms = |ms: i64| human::duration(Duration::from_millis(ms.try_into().unwrap_or_default()));
    let error = match (event.error_code.as_str(), event.error_message.as_str()) {
        ("", "") => None,
        ("", message) => Some(clean(message)),
        (code, message) => Some(clean(&format!("{code}: {message}"))),
    };
    let worker = match (event.worker_name.as_str(), event.worker_id.as_str()) {
        ("", "") => None,
        ("", id) => Some(format!("worker {}", clean(id))),
        (name, _) => Some(format!("worker {}", clean(name))),
    };
    // Without an actor the detail is not the reason of an order, but describes the circuit.
    let ordered = match (event.actor.as_str(), event.detail.as_str()) {
        ("", _) => None,
        (actor, "") => Some(format!("by {}", clean(actor))),
        (actor, why) => Some(format!("by {}: {}", clean(actor), clean(why))),
    };
    let circuit = match (event.task_id.as_str(), event.service.as_str()) {
        ("", service) if !service.is_empty() => Some(clean(
            format!("{}/{service} {}", event.namespace, event.detail).trim_end(),
        )),
        _ => None,
    };
    let parts = [
        (event.attempt > 0).then(|| format!("attempt {}", event.attempt)),
        event.wait_ms.map(|wait| format!("waited {}", ms(wait))),
        event.run_ms.map(|run| format!("ran {}", ms(run))),
        error,
        event
            .next_attempt_at
            .map(|at| format!("next at {}", human::time(at))),
        worker,
        circuit,
        ordered,
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_type_filter_accepts_each_type() {
        assert_eq!(event_type("step.retrying"), Ok(EventType::StepRetrying));
        assert_eq!(event_type("worker.lost"), Ok(EventType::WorkerLost));
        for wrong in ["", "step", "step_failed", "unspecified", "STEP.FAILED"] {
            let error = event_type(wrong).expect_err(wrong);
            assert!(
                error.starts_with("expected one of task.submitted, ")
                    && error.ends_with(", template.restored"),
                "{error}"
            );
        }
    }

    #[test]
    fn event_line_shows_the_fields_of_its_type() {
        let event = Event {
            r#type: EventType::StepRetrying.into(),
            namespace: "n".into(),
            task_name: "t".into(),
            version: "1.0.0".into(),
            task_id: "id".into(),
            step: "bill".into(),
            attempt: 2,
            run_ms: Some(1_200),
            error_code: "HTTP_429".into(),
            error_message: "slow\u{1b}[31m".into(),
            worker_id: "w".into(),
            ..Event::default()
        };
        let said = line(&event, &Term::plain());
        assert_eq!(
            said,
            "-  step.retrying           n/t@1.0.0  id  bill  attempt 2, ran 1.2 s, HTTP_429: slow\\u{1b}[31m, worker w"
        );
        let event = Event {
            r#type: EventType::StepSkipped.into(),
            actor: "ann".into(),
            detail: "paid".into(),
            ..Event::default()
        };
        assert_eq!(
            line(&event, &Term::plain()),
            "-  step.skipped            by ann: paid"
        );
        let event = Event {
            r#type: EventType::WorkerLost.into(),
            worker_name: "w 1".into(),
            ..Event::default()
        };
        assert_eq!(
            line(&event, &Term::plain()),
            "-  worker.lost             worker w 1"
        );
    }
}
