//! `tasker prune`.

use clap::Args;
use serde_json::json;

use super::{
    Session,
    error::{CliError, exit},
    render::table::Table,
    serve::{self, DatabaseArgs},
};
use crate::store::retention::{self, Pruned};

/// Options of `tasker prune`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tasker prune --older-than 30d --dry-run
  tasker prune --older-than 7d --json

Removes tasks that ended longer ago, in whatever state, with their steps, events and idempotency keys, but never a task that has not ended. It also removes services that no template names, that have no settings and have not changed for that time; and template versions that were retired longer ago and have no task left. A server prunes once an hour by its --retain. Both work in short transactions beside all other load. A subscriber with a cursor before the removed events gets an error.")]
pub struct Command {
    #[command(flatten)]
    database: DatabaseArgs,
    /// How long ago a task must have ended, 1h to 3650d
    #[arg(long, value_name = "TIME")]
    older_than: String,
    /// Only report what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Removes old data, or counts it in a dry run.
pub fn run(command: &Command, session: &Session) -> Result<u8, CliError> {
    let older_than = serve::age("--older-than", &command.older_than, "")?;
    let db = command.database.open()?;
    serve::block_on(async {
        // Without a migration: this command may be older or newer than the servers of the cell.
        serve::prepare(&db, false).await?;
        let result = match command.dry_run {
            true => retention::survey(&db, older_than).await,
            false => retention::prune(&db, older_than).await,
        };
        let pruned = result.map_err(|e| serve::database_error(&e))?;
        if session.json() {
            session.term.json(&document(&pruned, command.dry_run))?;
        } else {
            session.term.data(&table(&pruned).render(&session.term))?;
            session.term.say(if command.dry_run {
                "dry run: nothing was removed"
            } else {
                "removed"
            });
        }
        Ok(exit::OK)
    })
}

fn document(pruned: &Pruned, dry_run: bool) -> serde_json::Value {
    let Pruned {
        tasks,
        steps,
        keys,
        workers,
        circuit_changes,
        events,
        services,
        partitions,
        templates,
    } = pruned;
    json!({
        "dry_run": dry_run, "tasks": tasks, "steps": steps, "idempotency_keys": keys, "workers": workers,
        "circuit_changes": circuit_changes, "events": events,
        "event_partitions": partitions, "services": services, "templates": templates,
    })
}

fn table(pruned: &Pruned) -> Table {
    let mut table = Table::new(["WHAT", "HOW MANY"]);
    for (what, count) in [
        ("tasks", pruned.tasks),
        ("steps", pruned.steps),
        ("idempotency keys", pruned.keys),
        ("connections of workers", pruned.workers),
        ("changes of circuits", pruned.circuit_changes),
        ("events", pruned.events),
        (
            "event partitions dropped whole",
            pruned.partitions.len() as u64,
        ),
        ("unused services", pruned.services),
        ("retired templates", pruned.templates),
    ] {
        table.row([what.to_owned(), count.to_string()]);
    }
    table
}
