//! A database that is killed, and sessions that are cut off.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tasker::{
    server::{self, ServerConfig},
    store::Db,
};
use tasker_devdb::Cluster;
use tasker_worker::client::Client;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    away::{every_call_is_refused, health, logged_once_each, readyz},
    cluster::{migrated, session},
    ledger::Ledger,
    load::{FAN, Load, all_complete, all_done_once, assert_says_when_to_come_back},
    support::{
        SCHEMA, TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{register, submit},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_postgres_loses_no_accepted_task() {
    let mut cluster = migrated().await;
    let server = ServerProcess::start(&cluster.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, FAN).await;
    let ledger = Ledger::default();
    let workers = [0, 1].map(|_| ledger.worker(&[&server.url], 8, Duration::from_millis(40)));
    let load = Load::start(&server.url, "t/fan", Duration::from_millis(5));
    let mut others = vec![submit(&mut client, "t/fan", "{}").await];
    for down in [Duration::from_millis(500), Duration::from_secs(10)] {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let before = load.refusals().len();
        cluster.kill();
        let away = health(&server.url, ServingStatus::NotServing).await;
        assert!(away < Duration::from_secs(10), "it took {away:?} to notice");
        let ready = readyz(&server).await;
        assert!(
            ready.starts_with("HTTP/1.1 503") && ready.contains("database: does not answer"),
            "{ready}"
        );
        every_call_is_refused(&server.url, &others[0], down).await;
        cluster.restart().await.unwrap();
        let back = health(&server.url, ServingStatus::Serving).await;
        println!("noticed after {away:?}, back after {back:?}");
        assert!(
            back < Duration::from_secs(10),
            "it took {back:?} to come back"
        );
        others.push(submit(&mut client, "t/fan", "{}").await);
        assert!(
            load.refusals().len() > before,
            "no submit was refused while the database was away"
        );
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_says_when_to_come_back(&load.refusals());
    let mut tasks = load.stop().await;
    tasks.extend(others);
    let db = session(&cluster.url()).await;
    all_done_once(&db, &tasks, &ledger, workers).await;
    logged_once_each(&server, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_terminated_at_any_time_lose_and_repeat_nothing() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    register(&mut Client::connect(&server.url).await.unwrap(), FAN).await;
    let ledger = Ledger::default();
    let workers = [0, 1].map(|_| ledger.worker(&[&server.url], 8, Duration::from_millis(10)));
    let load = Load::start(&server.url, "t/fan", Duration::from_millis(2));
    let look = db.connect().await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'tasker'";
    let seed: [u8; 16] = uuid::Uuid::new_v4().into_bytes();
    println!("seed {seed:?}");
    for byte in seed {
        tokio::time::sleep(Duration::from_millis(100 + u64::from(byte))).await;
        look.execute(cut, &[]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_says_when_to_come_back(&load.refusals());
    let tasks = load.stop().await;
    all_done_once(&look, &tasks, &ledger, workers).await;
}

/// The server found its database, which is then gone when the server reads its templates.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_start_waits_for_an_interrupted_database() {
    let mut cluster = migrated().await;
    let db = Db::new(&cluster.url(), SCHEMA).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    cluster.kill();
    let running = tokio::spawn(server::run(
        listener,
        db,
        ServerConfig::default(),
        std::future::pending(),
    ));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!running.is_finished(), "{:?}", running.await);
    cluster.restart().await.unwrap();
    health(&url, ServingStatus::Serving).await;
    running.abort();
}

/// All Postgres processes are stopped: connections stay open, and no answer arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_postgres_counts_as_unavailable() {
    let cluster = migrated().await;
    let server = ServerProcess::start(&cluster.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, FAN).await;
    let ledger = Ledger::default();
    let worker = ledger.worker(&[&server.url], 8, Duration::from_millis(40));
    let load = Load::start(&server.url, "t/fan", Duration::from_millis(10));
    let first = submit(&mut client, "t/fan", "{}").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let all = processes(&cluster);
    all.iter()
        .for_each(|pid| kill_process(*pid, Signal::STOP).unwrap());
    // Longer than a lease: afterwards the server must give up no worker.
    let probes = every_call_is_refused(&server.url, &first, Duration::from_secs(8));
    let noticed = async {
        let away = health(&server.url, ServingStatus::NotServing).await;
        println!("noticed after {away:?}");
        assert!(away < Duration::from_secs(20), "it took {away:?} to notice");
    };
    tokio::join!(probes, noticed);
    all.iter()
        .for_each(|pid| kill_process(*pid, Signal::CONT).unwrap());
    let back = health(&server.url, ServingStatus::Serving).await;
    println!("back after {back:?}");
    assert!(
        back < Duration::from_secs(10),
        "it took {back:?} to come back"
    );
    submit(&mut client, "t/fan", "{}").await;
    assert_says_when_to_come_back(&load.refusals());
    tokio::time::sleep(Duration::from_millis(500)).await;
    load.stop().await;
    let db = session(&cluster.url()).await;
    // All stored tasks, not only the acknowledged ones: a submit whose client gave up may have been
    // stored once the database answered.
    let tasks = every_task(&db).await;
    all_complete(&db, &tasks).await;
    // Outcomes other than success show why a step ran again.
    let others = "SELECT task_id || '/' || step || ' attempt ' || attempt || ': ' || outcome || ' ' || started_at || ' to ' || ended_at
                    FROM attempts WHERE outcome <> 'succeeded' ORDER BY started_at";
    for row in db.query(others, &[]).await.unwrap() {
        println!("{}", row.get::<_, String>(0));
    }
    logged_once_each(&server, 1);
    ledger.assert_each_once(tasks.len() * 4);
    invariants(&db).await;
    worker.shutdown().await.unwrap();
}

async fn every_task(db: &tokio_postgres::Client) -> Vec<String> {
    db.query("SELECT task_id::text FROM tasks", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// The postmaster and its children.
fn processes(cluster: &Cluster) -> Vec<Pid> {
    let pid = cluster.pid();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children = children
        .split_whitespace()
        .map(|pid| pid.parse::<i32>().unwrap());
    std::iter::once(pid.cast_signed())
        .chain(children)
        .map(|pid| Pid::from_raw(pid).unwrap())
        .collect()
}
