//! How a command fails: an exit code, an error message and a hint for the next step.

use std::{fmt, io};

use tasker_worker::client::ConnectError;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{
    peer::Peer,
    render::{
        human,
        term::{self, Term, style},
    },
};

/// The exit codes, as `tasker --help` documents them; clap itself exits with 2 on a wrong command
/// line.
pub mod exit {
    /// The command succeeded.
    pub const OK: u8 = 0;
    /// It failed for a reason that has no code of its own.
    pub const FAILURE: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The watched task ended in `error`.
    pub const TASK_ERROR: u8 = 3;
    /// The watched task was cancelled.
    pub const TASK_CANCELLED: u8 = 4;
    /// A setting is wrong.
    pub const CONFIG: u8 = 64;
    /// An input (template, context) is wrong.
    pub const DATA: u8 = 65;
    /// The server cannot be reached or does not answer.
    pub const UNAVAILABLE: u8 = 69;
    /// Ctrl-C.
    pub const INTERRUPTED: u8 = 130;
}

/// An error that ends a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// One of [`exit`].
    pub code: u8,
    /// The error in its first line; further lines are details. Empty where there is nothing to
    /// report.
    pub message: String,
    /// The next step, if there is an obvious one.
    pub hint: Option<String>,
    /// The attempted action, where the connection broke or the peer is no gRPC server;
    /// `super::probe` then examines the peer.
    pub broken: Option<String>,
}

impl CliError {
    /// An error without a hint.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
            broken: None,
        }
    }

    /// Prints the error and its hint on stderr, with control characters of quoted text escaped.
    pub fn say(&self, term: &Term) {
        if !self.message.is_empty() {
            term.say_tagged(style::RED, "error", &term::clean_lines(&self.message));
        }
        if let Some(hint) = &self.hint {
            term.say_tagged(style::YELLOW, "hint", &term::clean_lines(hint));
        }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Converts the status of a failed rpc; `what` names the attempted action, such as
    /// `cannot submit the task`.
    pub fn from_status(what: &str, status: &Status) -> Self {
        // Tonic reports CANCELLED when the client's own time-out passes; no other component cancels
        // calls of this client.
        let timed_out = status.code() == Code::Cancelled && status.message() == "Timeout expired";
        // A status that a server sent has no source; only a transport error has one.
        let broken = timed_out
            || std::error::Error::source(status).is_some()
            || status.message().starts_with(NO_GRPC);
        // A broken connection comes first, since tonic gives it any of several codes.
        let code = match status.code() {
            _ if broken => exit::UNAVAILABLE,
            Code::Unavailable | Code::DeadlineExceeded => exit::UNAVAILABLE,
            Code::InvalidArgument => exit::DATA,
            _ => exit::FAILURE,
        };
        // The name of the code is better than nothing where a proxy sends no message.
        let said = match status.message() {
            _ if timed_out => "the server did not answer in time".to_owned(),
            "" => status.code().description().to_owned(),
            message if broken => cause(status).unwrap_or_else(|| message.to_owned()),
            message => message.to_owned(),
        };
        let what = term::clean(what);
        let mut more = violations(status);
        // The server repeats the first violations in the message, for clients that show no details.
        let first = match (repeats(&said, status), more.len()) {
            (true, 1) => format!("{what}: {}", more.remove(0)),
            (true, _) => format!("{what}:"),
            (false, _) => format!("{what}: {}", term::clean(&said)),
        };
        more.extend(details(status));
        let lines: Vec<String> = std::iter::once(first)
            .chain(more.iter().map(|line| format!("  {line}")))
            .collect();
        let error = Self {
            broken: broken.then_some(what),
            ..Self::new(code, lines.join("\n"))
        };
        match status.code() {
            Code::Unimplemented => {
                error.hint("the server is older than this client, or is not a Tasker server")
            }
            _ if broken => error.hint("check that the server runs, or set --server"),
            Code::Unavailable => {
                error.hint("try again; GET /readyz of the server says whether it is ready")
            }
            _ => error,
        }
    }
}

/// Beginning of Tonic's message for an HTTP response that lacks the status of a gRPC server.
const NO_GRPC: &str = "grpc-status header missing";

/// The innermost error of a broken connection: the outer ones state little more than "transport
/// error".
fn cause(status: &Status) -> Option<String> {
    let mut cause = std::error::Error::source(status)?;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Some(cause.to_string())
}

/// Whether a retry can succeed: the connection or the server failed, and the request is not at
/// fault.
pub fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::Aborted
            | Code::DeadlineExceeded
    )
}

/// The field violations of a status, one readable line each.
fn violations(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details
        .bad_request()
        .iter()
        .flat_map(|b| &b.field_violations)
        .map(violation)
        .collect()
}

fn violation(v: &tonic_types::FieldViolation) -> String {
    match v.field.as_str() {
        // A violation without a field, such as the number of further violations.
        "" => term::clean(&v.description),
        field => format!("{}: {}", term::clean(field), term::clean(&v.description)),
    }
}

/// Whether the message only repeats the first violations.
fn repeats(message: &str, status: &Status) -> bool {
    let details = status.get_error_details();
    let first = details
        .bad_request()
        .and_then(|b| b.field_violations.first());
    // Long messages are cut, with an ellipsis at their end.
    let message = message.trim_end_matches('…');
    first.is_some_and(|v| {
        let first = format!("{}: {}", v.field, v.description.trim_end_matches('…'));
        message.starts_with(&first)
            || (message.starts_with(&format!("{}: ", v.field)) && first.starts_with(message))
    })
}

/// The other google.rpc details of a status, one readable line each.
fn details(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    for v in details
        .precondition_failure()
        .iter()
        .flat_map(|p| &p.violations)
    {
        lines.push(format!(
            "{}: {}",
            term::clean(&v.subject),
            term::clean(&v.description)
        ));
    }
    for v in details.quota_failure().iter().flat_map(|q| &q.violations) {
        lines.push(format!(
            "{}: {}",
            term::clean(&v.subject),
            term::clean(&v.description)
        ));
    }
    if let Some(info) = details.error_info() {
        let mut metadata: Vec<_> = info
            .metadata
            .iter()
            .map(|(k, v)| format!(" {k}={v}"))
            .collect();
        // A map has no order; sorted, equal errors read equally.
        metadata.sort();
        lines.push(format!(
            "reason: {}{}",
            term::clean(&info.reason),
            term::clean(&metadata.concat())
        ));
    }
    if let Some(delay) = details.retry_info().and_then(|r| r.retry_delay) {
        lines.push(format!(
            "the server asks for a retry in {}",
            human::duration(delay)
        ));
    }
    lines
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        match &error {
            ConnectError::InvalidUrl { .. } => Self::new(exit::CONFIG, error.to_string())
                .hint("set --server or TASKER_SERVER, such as http://127.0.0.1:7233"),
            ConnectError::Unreachable { source, .. } => {
                // The I/O error is somewhere in the chain, and the last cause is the most specific
                // one.
                let mut cause: &dyn std::error::Error = source;
                let mut peer = Peer::NoWay;
                loop {
                    if let Some(error) = cause.downcast_ref::<io::Error>() {
                        peer = Peer::of_connect(error);
                    }
                    let Some(inner) = cause.source() else { break };
                    cause = inner;
                }
                let message = format!(
                    "{}: {}",
                    term::clean(&error.to_string()),
                    term::clean(&cause.to_string())
                );
                let next = peer.description().map(|(_, next)| next);
                Self {
                    hint: next.map(str::to_owned),
                    ..Self::new(exit::UNAVAILABLE, message)
                }
            }
        }
    }
}

/// A failed write of the output. A closed pipe (`| head`) counts as success.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(exit::OK, "")
        } else {
            Self::new(exit::FAILURE, format!("cannot write the output: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::{ErrorDetails, StatusExt as _};

    use super::*;

    #[test]
    fn status_details_are_shown_as_lines() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("context_json/email", "not an e-mail\u{1b}[31m")
            .add_bad_request_violation("", "`name` is missing")
            .set_error_info(
                "SCHEMA_MISMATCH",
                "tasker",
                [("b".to_owned(), "2".to_owned()), ("a".into(), "1".into())],
            )
            .set_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(
            Code::InvalidArgument,
            "the context does not match the schema",
            details,
        );
        let error = CliError::from_status("cannot submit the task", &status);
        assert_eq!(error.code, exit::DATA);
        assert_eq!(
            error.message,
            [
                "cannot submit the task: the context does not match the schema",
                "  context_json/email: not an e-mail\\u{1b}[31m",
                "  `name` is missing",
                "  reason: SCHEMA_MISMATCH a=1 b=2",
                "  the server asks for a retry in 2.0 s",
            ]
            .join("\n")
        );
    }

    #[test]
    fn status_whose_message_repeats_a_violation_shows_it_once() {
        let status = |message: &str, fields: &[&str]| {
            let mut details = ErrorDetails::new();
            for field in fields {
                details.add_bad_request_violation(*field, "expected 1 to 255 bytes");
            }
            Status::with_error_details(Code::InvalidArgument, message, details)
        };
        let one = status("by: expected 1 to 255 bytes", &["by"]);
        assert_eq!(
            CliError::from_status("cannot retry", &one).message,
            "cannot retry: by: expected 1 to 255 bytes"
        );
        let two = status(
            "by: expected 1 to 255 bytes; reason: expected 1 to 255 bytes",
            &["by", "reason"],
        );
        let lines = [
            "cannot retry:",
            "  by: expected 1 to 255 bytes",
            "  reason: expected 1 to 255 bytes",
        ]
        .join("\n");
        assert_eq!(CliError::from_status("cannot retry", &two).message, lines);
        let cut = status("by: expected 1 to…", &["by"]);
        assert_eq!(
            CliError::from_status("cannot retry", &cut).message,
            "cannot retry: by: expected 1 to 255 bytes"
        );
        // A message that does not repeat the violations is kept.
        let own = status("the context does not match the schema", &["by"]);
        let lines = [
            "cannot retry: the context does not match the schema",
            "  by: expected 1 to 255 bytes",
        ]
        .join("\n");
        assert_eq!(CliError::from_status("cannot retry", &own).message, lines);
    }

    #[test]
    fn status_of_a_broken_connection_is_marked_for_the_probe() {
        let broken = Status::from_error(io::Error::from(io::ErrorKind::ConnectionReset).into());
        let error = CliError::from_status("cannot list", &broken);
        assert_eq!(
            (error.code, error.broken.as_deref()),
            (exit::UNAVAILABLE, Some("cannot list"))
        );
        let mapped =
            Status::unknown("grpc-status header missing, mapped from HTTP status code 200");
        assert_eq!(
            CliError::from_status("cannot list", &mapped).code,
            exit::UNAVAILABLE
        );
        let answered = CliError::from_status(
            "cannot list",
            &Status::unavailable("the database is away; try again"),
        );
        assert_eq!((answered.code, answered.broken), (exit::UNAVAILABLE, None));
        assert_eq!(
            answered.hint.as_deref(),
            Some("try again; GET /readyz of the server says whether it is ready")
        );
    }

    #[test]
    fn status_of_a_time_out_or_absent_server_exits_with_unavailable() {
        for status in [
            Status::unavailable("x"),
            Status::cancelled("Timeout expired"),
            Status::deadline_exceeded("x"),
        ] {
            assert_eq!(
                CliError::from_status("cannot list", &status).code,
                exit::UNAVAILABLE
            );
        }
        assert_eq!(
            CliError::from_status("cannot list", &Status::not_found("x")).code,
            exit::FAILURE
        );
    }

    #[test]
    fn broken_pipe_exits_silently_with_success() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((error.code, error.message.as_str()), (exit::OK, ""));
    }
}
