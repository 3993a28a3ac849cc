//! All faults at once: servers, workers and Postgres are killed, stopped and cut off while clients
//! submit; afterwards a checker compares the acknowledgements, the handlers' lines and the rows of
//! the database.
//!
//! `cargo test` runs it for some seconds, `make torture` for ten minutes. The seed decides the
//! submits, the handlers' behaviour and the schedule of the faults; the timing of the processes is
//! not repeatable.

#[path = "../support/mod.rs"]
mod support;

mod acks;
mod checker;
mod chronicle;
mod client;
mod clock;
mod disk;
mod document;
mod evidence;
mod fate;
mod faults;
mod inflict;
mod ledger;
mod link;
mod operator;
mod poison;
mod process;
mod report;
mod run;
mod sampler;
mod seed;
mod shapes;
mod worker;
mod world;

use std::time::Duration;

use run::{Settings, run};
use world::Size;

/// Duration of the run without `TASKER_TORTURE_SECONDS`.
const SECONDS: u64 = 14;
/// A run of this length or more is a long run.
const LONG: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable)
        .ok()
        .filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture_loses_and_repeats_nothing() {
    let seconds = number("TASKER_TORTURE_SECONDS").unwrap_or(SECONDS);
    let seed = number("TASKER_TORTURE_SEED").unwrap_or(1);
    let time = Duration::from_secs(seconds);
    let settings = if seconds >= LONG {
        Settings {
            seed,
            time,
            size: Size {
                servers: 3,
                worker_processes: 4,
                workers_per_process: 3,
            },
            gap: Duration::from_millis(1_500),
            open: 250,
            settle: Duration::from_secs(60),
        }
    } else {
        Settings {
            seed,
            time,
            size: Size {
                servers: 2,
                worker_processes: 3,
                workers_per_process: 2,
            },
            gap: Duration::from_millis(500),
            open: 100,
            settle: Duration::from_secs(30),
        }
    };
    run(&settings).await;
}
