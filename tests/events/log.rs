//! Transactions of random length write events concurrently, and commit in another order than they
//! began; subscribers are killed and resume. The subscribers receive the committed events: none is
//! missing, none comes twice, and each task's events are in the order of cause and effect.
//!
//! `TASKER_EVENTS=200000 TASKER_EVENTS_KILLS=100` for the full run.

use std::{
    collections::{BTreeMap, HashSet},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tasker::proto::Event;
use tasker_worker::client::Client;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use uuid::Uuid;

use crate::{
    Tail, after, from_beginning,
    support::{TestDb, process::ServerProcess},
};

const TASKS: usize = 60;
const WRITERS: usize = 16;

fn setting(name: &str, small: i64) -> i64 {
    std::env::var(name).ok().map_or(small, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is not a number"))
    })
}

/// A number below `end`.
fn below(end: u64) -> u64 {
    Uuid::new_v4().as_u64_pair().1 % end
}

/// The events that a subscriber has received: their numbers in their tasks' chains, in the order of
/// arrival.
#[derive(Default)]
struct Heard {
    seqs: HashSet<i64>,
    chains: BTreeMap<Uuid, Vec<i64>>,
}

impl Heard {
    fn add(&mut self, seq: i64, task: &str, number: i64) {
        assert!(self.seqs.insert(seq), "event {seq} came twice");
        self.chains
            .entry(task.parse().unwrap())
            .or_default()
            .push(number);
    }

    fn take(&mut self, event: &Event) {
        self.add(event.seq, &event.task_id, event.attempt.into());
    }

    fn count(&self) -> i64 {
        self.seqs.len().try_into().unwrap()
    }

    fn check(&self, who: &str, expected: &BTreeMap<Uuid, i64>) {
        for (task, last) in expected {
            let heard = &self.chains[task];
            assert!(
                heard.iter().copied().eq(1..=*last),
                "{who}: {task} has 1 to {last}, and was heard as {heard:?}"
            );
        }
    }
}

/// Appends to the chains of some tasks, each link of which depends on the one before, until
/// `written` is large enough.
async fn write(db: Arc<TestDb>, tasks: Arc<Vec<Uuid>>, written: Arc<AtomicI64>, wanted: i64) {
    let client = db.connect().await;
    let link = client
        .prepare(
            "WITH next AS (UPDATE chains SET number = number + $2::int WHERE task_id = $1 RETURNING number)
             INSERT INTO events (at, type, task_id, attempt)
             SELECT clock_timestamp(), 'step.started', $1, number - $2::int + i FROM next, generate_series(1, $2::int) AS i",
        )
        .await
        .unwrap();
    while written.load(Ordering::Relaxed) < wanted {
        // Sorted, so that no two transactions deadlock.
        let mut mine: Vec<usize> = (0..=below(5))
            .map(|_| usize::try_from(below(TASKS as u64)).unwrap())
            .collect();
        mine.sort_unstable();
        mine.dedup();
        client.batch_execute("BEGIN").await.unwrap();
        if below(2) == 0 {
            // The transaction takes its number now and its locks later.
            client
                .batch_execute("SELECT pg_current_xact_id()")
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(below(20))).await;
        }
        let mut added = 0;
        for task in mine {
            let links = i32::try_from(1 + below(8)).unwrap();
            client
                .execute(&link, &[&tasks[task], &links])
                .await
                .unwrap();
            added += i64::from(links);
        }
        let long = if below(50) == 0 { 200 } else { 10 };
        tokio::time::sleep(Duration::from_millis(below(long))).await;
        if below(20) == 0 {
            client.batch_execute("ROLLBACK").await.unwrap();
        } else {
            client.batch_execute("COMMIT").await.unwrap();
            written.fetch_add(added, Ordering::Relaxed);
        }
    }
}

/// `tasker events tail`, from the cursor on.
fn tail(server: &ServerProcess, cursor: &str) -> Child {
    let from = if cursor.is_empty() {
        ["--from", "beginning"]
    } else {
        ["--cursor", cursor]
    };
    Command::new(env!("CARGO_BIN_EXE_tasker"))
        .args(["--server", &server.url, "--json", "events", "tail"])
        .args(from)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Reads events until the process is killed with SIGKILL after `life`, or until `enough` have
/// arrived.
async fn hear(
    server: &ServerProcess,
    cursor: &mut String,
    heard: &mut Heard,
    life: Duration,
    enough: i64,
) {
    let mut child = tail(server, cursor);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let until = tokio::time::Instant::now() + life;
    let mut line = String::new();
    let mut killed = false;
    loop {
        tokio::select! {
            read = lines.read_line(&mut line) => {
                // Lines written before the kill count, except an incomplete one.
                if read.unwrap() == 0 || !line.ends_with('\n') {
                    break;
                }
                let event: Value = serde_json::from_str(&line).unwrap();
                heard.add(event["seq"].as_i64().unwrap(), event["task_id"].as_str().unwrap(), event["attempt"].as_i64().unwrap());
                event["cursor"].as_str().unwrap().clone_into(cursor);
                line.clear();
                if heard.count() == enough {
                    break;
                }
            }
            () = tokio::time::sleep_until(until), if !killed => {
                child.start_kill().unwrap();
                killed = true;
            }
        }
    }
    let _ = child.kill().await;
}

/// Reads everything in one subscription, slowly: `pause` after each hundred.
async fn hear_slowly(url: String, pause: Duration, enough: Arc<AtomicI64>) -> Heard {
    let mut client = Client::connect(&url).await.unwrap();
    let mut tail = Tail::begin(&mut client, from_beginning()).await.unwrap();
    let mut heard = Heard::default();
    while heard.count() != enough.load(Ordering::Relaxed) {
        match tail.message().await {
            Ok(message) => message.event.iter().for_each(|event| heard.take(event)),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status}");
                tail = Tail::begin(&mut client, after(&tail.cursor)).await.unwrap();
            }
        }
        if heard.count() % 100 == 0 {
            tokio::time::sleep(pause).await;
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::too_many_lines,
    reason = "writers, readers and kills run beside each other and share what is counted at the end"
)]
async fn killed_and_slow_subscribers_receive_each_event_once_in_order() {
    let (wanted, kills) = (
        setting("TASKER_EVENTS", 10_000),
        setting("TASKER_EVENTS_KILLS", 20),
    );
    let db = Arc::new(TestDb::new().await);
    let tasks: Arc<Vec<Uuid>> = Arc::new((0..TASKS).map(|_| Uuid::now_v7()).collect());
    let control = db.connect().await;
    control
        .batch_execute("CREATE TABLE chains (task_id uuid PRIMARY KEY, number int NOT NULL) WITH (fillfactor = 20)")
        .await
        .unwrap();
    control
        .execute(
            "INSERT INTO chains SELECT unnest($1::uuid[]), 0",
            &[&*tasks],
        )
        .await
        .unwrap();
    let mut servers = [
        ServerProcess::start(db.url()),
        ServerProcess::start(db.url()),
    ];

    // One transaction stays open all the time, so the log below its number is never complete. It
    // writes early and commits last.
    let old = db.connect().await;
    let oldest = Uuid::now_v7();
    old.batch_execute("BEGIN").await.unwrap();
    old.execute("INSERT INTO chains VALUES ($1, 1)", &[&oldest])
        .await
        .unwrap();
    let insert =
        "INSERT INTO events (at, type, task_id, attempt) VALUES (now(), 'step.started', $1, 1)";
    old.execute(insert, &[&oldest]).await.unwrap();

    let (written, total) = (
        Arc::new(AtomicI64::new(0)),
        Arc::new(AtomicI64::new(i64::MAX)),
    );
    let slow: Vec<_> = [0, 5]
        .into_iter()
        .map(|ms| {
            tokio::spawn(hear_slowly(
                servers[1].url.clone(),
                Duration::from_millis(ms),
                Arc::clone(&total),
            ))
        })
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let writers = {
        let (db, tasks, written, done) = (
            Arc::clone(&db),
            Arc::clone(&tasks),
            Arc::clone(&written),
            Arc::clone(&done),
        );
        tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..WRITERS {
                all.spawn(write(
                    Arc::clone(&db),
                    Arc::clone(&tasks),
                    Arc::clone(&written),
                    wanted,
                ));
            }
            while all.join_next().await.is_some_and(|ended| ended.is_ok()) {}
            done.store(true, Ordering::Relaxed);
        })
    };

    let (started, mut cursor, mut heard, mut lives) =
        (Instant::now(), String::new(), Heard::default(), 0);
    while lives < kills || !done.load(Ordering::Relaxed) {
        let server = &servers[usize::try_from(below(2)).unwrap()];
        hear(
            server,
            &mut cursor,
            &mut heard,
            Duration::from_millis(100 + below(900)),
            i64::MAX,
        )
        .await;
        lives += 1;
        if lives == kills / 2 {
            // Its subscribers resume at the other server.
            let address = servers[0].address().to_owned();
            servers[0].kill();
            servers[0] = ServerProcess::start_at(db.url(), &address);
        }
    }
    writers.await.unwrap();
    old.batch_execute("COMMIT").await.unwrap();

    let rows = control
        .query(
            "SELECT task_id, number::bigint FROM chains WHERE number > 0",
            &[],
        )
        .await
        .unwrap();
    let expected: BTreeMap<Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let sum: i64 = expected.values().sum();
    assert_eq!(sum, written.load(Ordering::Relaxed) + 1);
    // A last event, with which the slow subscribers reach their total.
    total.store(sum + 1, Ordering::Relaxed);
    let end = Uuid::now_v7();
    control.execute(insert, &[&end]).await.unwrap();
    hear(
        &servers[0],
        &mut cursor,
        &mut heard,
        Duration::from_secs(60),
        sum + 1,
    )
    .await;

    println!(
        "{} events, {lives} lives, {:.1} s, the last cursor has {} bytes",
        heard.count(),
        started.elapsed().as_secs_f64(),
        cursor.len()
    );
    heard.check("killed", &expected);
    assert_eq!(heard.count(), sum + 1);
    for one in slow {
        let heard = tokio::time::timeout(Duration::from_secs(120), one)
            .await
            .unwrap()
            .unwrap();
        heard.check("slow", &expected);
        assert_eq!(heard.count(), sum + 1);
    }
}
