//! How a command fails: an exit code, what went wrong, and what to do next.

use std::{fmt, io};

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{human, term};
use crate::client::ConnectError;

/// The exit codes, as `tasker --help` documents them; clap itself ends with 2 for a wrong command line.
pub mod exit {
    /// The command did what it says.
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

/// Ends a command early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CliError {
    /// One of [`exit`].
    pub code: u8,
    /// What went wrong, in one line; more lines add details. Empty when there is nothing to say.
    pub message: String,
    /// The next step, if there is an obvious one.
    pub hint: Option<String>,
}

impl CliError {
    /// An error without a hint.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a failed rpc means: `what` says what was tried, such as `cannot submit the task`.
    pub fn from_status(what: &str, status: &Status) -> Self {
        // Tonic says CANCELLED when the client's own time-out passed; nobody else cancels our calls.
        let timed_out = status.code() == Code::Cancelled && status.message() == "Timeout expired";
        let code = match status.code() {
            _ if timed_out => exit::UNAVAILABLE,
            Code::Unavailable | Code::DeadlineExceeded => exit::UNAVAILABLE,
            Code::InvalidArgument => exit::DATA,
            _ => exit::FAILURE,
        };
        let said = match status.message() {
            _ if timed_out => "the server did not answer in time",
            "" => status.code().description(),
            message => message,
        };
        let mut lines = vec![format!("{what}: {}", term::clean(said))];
        lines.extend(details(status));
        let error = Self::new(code, lines.join("\n"));
        match status.code() {
            Code::Unimplemented => error.hint("the server is older than this client, or is not a Tasker server"),
            Code::Unavailable => error.hint("check that the server runs, or set --server"),
            _ => error,
        }
    }
}

/// Whether a broken stream may come up again: the connection or the server went, and the request itself is not at fault.
pub fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted | Code::DeadlineExceeded
    )
}

/// The google.rpc details of a status, one readable line each.
fn details(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let mut lines = Vec::new();
    for v in details.bad_request().iter().flat_map(|b| &b.field_violations) {
        let field = if v.field.is_empty() { "(root)" } else { &v.field };
        lines.push(format!("  {}: {}", term::clean(field), term::clean(&v.description)));
    }
    for v in details.precondition_failure().iter().flat_map(|p| &p.violations) {
        lines.push(format!("  {}: {}", term::clean(&v.subject), term::clean(&v.description)));
    }
    for v in details.quota_failure().iter().flat_map(|q| &q.violations) {
        lines.push(format!("  {}: {}", term::clean(&v.subject), term::clean(&v.description)));
    }
    if let Some(info) = details.error_info() {
        let mut metadata: Vec<_> = info.metadata.iter().map(|(k, v)| format!(" {k}={v}")).collect();
        metadata.sort();
        lines.push(format!("  reason: {}{}", term::clean(&info.reason), term::clean(&metadata.concat())));
    }
    if let Some(delay) = details.retry_info().and_then(|r| r.retry_delay) {
        lines.push(format!("  the server asks to try again in {}", human::duration(delay)));
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
                let mut cause: &dyn std::error::Error = source;
                while let Some(inner) = cause.source() {
                    cause = inner;
                }
                Self::new(exit::UNAVAILABLE, format!("{error}: {cause}"))
                    .hint("start one with `tasker dev`, or set --server")
            }
        }
    }
}

/// Writing the output failed. A reader that has seen enough (`| head`) is no failure at all.
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
    fn details_become_lines() {
        let mut details = ErrorDetails::new();
        details
            .add_bad_request_violation("context_json/email", "not an e-mail\u{1b}[31m")
            .add_bad_request_violation("", "`name` is missing")
            .set_error_info("SCHEMA_MISMATCH", "tasker", [("b".to_owned(), "2".to_owned()), ("a".into(), "1".into())])
            .set_retry_info(Some(Duration::from_secs(2)));
        let status = Status::with_error_details(Code::InvalidArgument, "the context does not fit", details);
        let error = CliError::from_status("cannot submit the task", &status);
        assert_eq!(error.code, exit::DATA);
        assert_eq!(
            error.message,
            [
                "cannot submit the task: the context does not fit",
                "  context_json/email: not an e-mail\\u{1b}[31m",
                "  (root): `name` is missing",
                "  reason: SCHEMA_MISMATCH a=1 b=2",
                "  the server asks to try again in 2.0 s",
            ]
            .join("\n")
        );
    }

    #[test]
    fn a_time_out_and_an_absent_server_are_unavailable() {
        for status in [Status::unavailable("x"), Status::cancelled("Timeout expired"), Status::deadline_exceeded("x")] {
            assert_eq!(CliError::from_status("cannot list", &status).code, exit::UNAVAILABLE);
        }
        assert_eq!(CliError::from_status("cannot list", &Status::not_found("x")).code, exit::FAILURE);
    }

    #[test]
    fn a_broken_pipe_is_silent_success() {
        let error = CliError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((error.code, error.message.as_str()), (exit::OK, ""));
    }
}
