//! The article's ServiceMonitor: subscribes to the ends of the steps of a namespace, classifies
//! failures, keeps each service's times, and raises alerts.
//!
//! ```sh
//! cargo run --example service_monitor -- --namespace user_management --cursor-file monitor.cursor
//! ```

use std::{fs, io, path::PathBuf, process::ExitCode};

use clap::Parser;
use monitor::{Monitor, follow, request};

mod monitor;

/// Watches the services of a namespace until Ctrl-C; then prints their figures.
#[derive(Parser)]
#[command(name = "service_monitor")]
struct Args {
    /// The control plane.
    #[arg(long, env = "TASKER_SERVER", default_value = "http://127.0.0.1:7233")]
    server: String,
    /// Namespace of the steps.
    #[arg(long, default_value = "user_management")]
    namespace: String,
    /// File that keeps the cursor in the event log: the next run resumes there. Without it, the
    /// monitor begins now.
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("service_monitor: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let cursor = match &args.cursor_file {
        None => String::new(),
        Some(file) => match fs::read_to_string(file) {
            Ok(cursor) => cursor.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error.into()),
        },
    };
    let mut monitor = Monitor::default();
    let following = follow(
        &args.server,
        request(&args.namespace, cursor),
        |event, cursor| {
            if let Some(alert) = event.and_then(|event| monitor.hear(event)) {
                println!("ALERT {alert}");
            }
            // Written after the event was handled: a crash in between may repeat one alert, and
            // loses none.
            if let Some(file) = &args.cursor_file {
                fs::write(file, cursor)?;
            }
            Ok(())
        },
    );
    tokio::select! {
        ended = following => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    print!("{monitor}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        Args::command().debug_assert();
    }
}
