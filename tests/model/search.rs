//! The search for a difference, and the report of one.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use tasker::server::ServerConfig;
use tokio::task::JoinSet;

use crate::{
    model::Wrong,
    op::Op,
    run::{Difference, play},
    shrink::shrink,
    support::{
        TestDb,
        invariants::invariants,
        random::Random,
        server::{Bench, TestServer},
    },
};

/// Duration of the search without `MODEL_SECONDS`.
const SECONDS: u64 = 8;
/// Number of histories that are played at once, each in a namespace of its own; each of them mostly
/// waits.
const AT_ONCE: usize = 8;
/// The most ops that a shrunk history of a planted mistake may have. Most have four to six; what
/// depends on the time of a message cannot always be repeated, and so keeps a few more.
const HANDFUL: usize = 10;
/// Time limit for finding a planted mistake.
const PLANTED: Duration = Duration::from_secs(120);
/// Time limit for shrinking a history; on a busy machine each play of a history takes seconds.
const SHRINKING: Duration = Duration::from_secs(300);

/// Plays histories until `time` is over. Returns the number of histories, and one that differs.
async fn search(
    url: &str,
    random: &mut Random,
    wrong: Wrong,
    at_once: usize,
    time: Duration,
) -> (usize, Option<Found>) {
    let started = Instant::now();
    let (mut drawn, mut playing) = (0, JoinSet::new());
    loop {
        while playing.len() < at_once && started.elapsed() < time {
            let (url, number, ops) = (url.to_owned(), drawn, wrong.history(random));
            drawn += 1;
            playing
                .spawn(async move { (number, ops.clone(), play_for_sure(url, ops, wrong).await) });
        }
        match playing.join_next().await {
            None => return (drawn, None),
            Some(played) => {
                let (number, ops, difference) = played.unwrap();
                if let Some(difference) = difference {
                    return (
                        drawn,
                        Some(Found {
                            number,
                            ops,
                            difference,
                        }),
                    );
                }
            }
        }
    }
}

/// A difference that a busy machine may cause counts only if it comes again: a message of a worker
/// is read late, after the history had moved on since the claim, and so a step seems to overtake
/// another; or the database does not answer in time. Every other difference counts at
/// once.
async fn play_for_sure(url: String, ops: Vec<Op>, wrong: Wrong) -> Option<Difference> {
    let first = play(url.clone(), ops.clone(), wrong).await?;
    if !first.unsure {
        return Some(first);
    }
    for _ in 0..3 {
        match play(url.clone(), ops.clone(), wrong).await {
            Some(again) if again.what == first.what || !again.unsure => return Some(again),
            Some(_) | None => {}
        }
    }
    eprintln!("once, and not again: {}", first.what);
    None
}

struct Found {
    number: usize,
    ops: Vec<Op>,
    difference: Difference,
}

/// The smallest history that differs, in words.
async fn report(url: &str, found: Found) -> String {
    let Found {
        number,
        ops,
        difference,
    } = found;
    let mut text = format!("history {number}, {} ops: {}\n", ops.len(), difference.what);
    let again = |ops| play_for_sure(url.to_owned(), ops, Wrong::Nothing);
    let (ops, difference) = match again(ops.clone()).await {
        Some(same) => shrink(ops, same, SHRINKING, again).await,
        None => {
            text.push_str("It did not come again, so this is all of it:\n");
            (ops, difference)
        }
    };
    writeln!(text, "\nThe least that differs:").unwrap();
    difference
        .log
        .iter()
        .for_each(|line| writeln!(text, "  {line}").unwrap());
    writeln!(text, "{}\n\n{ops:?}", difference.what).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_does_what_the_model_says() {
    let mut random = Random::seeded("model");
    let seconds =
        std::env::var("MODEL_SECONDS").map_or(SECONDS, |text| text.parse().expect("a number"));
    let bench = bench().await;
    let (played, found) = search(
        &bench.server.url,
        &mut random,
        Wrong::Nothing,
        AT_ONCE,
        Duration::from_secs(seconds),
    )
    .await;
    if let Some(found) = found {
        panic!("{}", report(&bench.server.url, found).await);
    }
    eprintln!("model: {played} histories");
    invariants(&bench.db.connect().await).await;
}

/// Long leases, so that on a busy machine a worker falls silent only where a history does so; and
/// circuits that open only where a history opens them.
async fn bench() -> Bench {
    let db = TestDb::new().await;
    let config = ServerConfig {
        lease: Duration::from_secs(6),
        ..Default::default()
    };
    let server = TestServer::start_with(&db, config).await;
    let client = server.client().await;
    let mut bench = Bench { db, server, client };
    bench.circuits_off().await;
    bench
}

/// A few calls expose a model with this mistake.
async fn found_out(url: &str, wrong: Wrong) {
    let mut random = Random::seeded(&format!("{wrong:?}"));
    let (_, found) = search(url, &mut random, wrong, 2, PLANTED).await;
    let found = found.unwrap_or_else(|| panic!("{wrong:?} was not found out"));
    let again = |ops| play_for_sure(url.to_owned(), ops, wrong);
    let (ops, difference) = shrink(found.ops, found.difference, SHRINKING, again).await;
    eprintln!(
        "{wrong:?}: {}\n  {}",
        difference.what,
        difference.log.join("\n  ")
    );
    assert!(
        ops.len() <= HANDFUL,
        "{wrong:?}: {}, {} ops: {ops:?}",
        difference.what,
        ops.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_model_is_detected() {
    let bench = bench().await;
    let url = &bench.server.url;
    tokio::join!(
        found_out(url, Wrong::LossesAreCharged),
        found_out(url, Wrong::OneAttemptLess),
        found_out(url, Wrong::CopiesAreStale),
        found_out(url, Wrong::OldestLast),
        found_out(url, Wrong::CancelledRunsOn),
        found_out(url, Wrong::HoldersAreNotTold),
        found_out(url, Wrong::ClosedIsShut),
        found_out(url, Wrong::PausedForGood),
        found_out(url, Wrong::RetriedIsNew),
        found_out(url, Wrong::SkippedIsMissed),
        found_out(url, Wrong::GivenIsUnseen),
    );
}
