//! A second Postgres that follows the first and takes its place.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tasker_devdb::{Cluster, Options, find};
use tasker_worker::client::Client;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    away::health,
    cluster::{migrated, session},
    ledger::Ledger,
    load::{FAN, Load, all_done_once, assert_says_when_to_come_back},
    support::{
        self,
        process::ServerProcess,
        server::{eventually, register},
    },
};

/// The folder of the standby; removed when the test ends.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Beside the server's binary, which may be a symbolic link to its real place.
fn pg_basebackup() -> Option<PathBuf> {
    let postgres = find().ok()?.postgres().canonicalize().ok()?;
    Some(postgres.with_file_name("pg_basebackup")).filter(|program| program.is_file())
}

/// Copies a running cluster into a folder, as a standby of it.
fn copy(program: &Path, primary: &Cluster) -> Folder {
    let folder = Folder(PathBuf::from(format!(
        "{}-standby",
        primary.dir().display()
    )));
    let data = folder.0.join("data");
    // The user of the Postgres process traverses the outer folder and owns the inner one.
    fs::DirBuilder::new().mode(0o711).create(&folder.0).unwrap();
    fs::DirBuilder::new().mode(0o700).create(&data).unwrap();
    let owner = fs::metadata(primary.dir().join("data")).unwrap();
    chown(&data, Some(owner.uid()), Some(owner.gid())).unwrap();
    fs::copy(primary.dir().join("password"), folder.0.join("password")).unwrap();
    let mut command = Command::new(program);
    command
        .args([
            "--checkpoint=fast",
            "--no-sync",
            "--write-recovery-conf",
            "--pgdata",
        ])
        .arg(&data);
    command.arg("--dbname").arg(primary.url()).current_dir("/");
    if rustix::process::geteuid().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    assert!(command.status().unwrap().success());
    folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_standby_has_every_acknowledged_task() {
    let Some(program) = pg_basebackup() else {
        eprintln!("SKIPPED: there is no pg_basebackup beside the postgres binary");
        return;
    };
    let primary = migrated().await;
    let folder = copy(&program, &primary);
    let standby = support::start(Options {
        data_dir: Some(folder.0.clone()),
        ..support::own_options()
    })
    .await;
    let look = session(&primary.url()).await;
    // Only now: without a standby to confirm it, no commit would end.
    look.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        .await
        .unwrap();
    look.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("the standby is synchronous", || async {
        let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'";
        (look.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;

    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", primary.port(), standby.port());
    let url = primary
        .url()
        .replace(&format!("127.0.0.1:{}", primary.port()), &hosts);
    let server = ServerProcess::start(&format!("{url}?target_session_attrs=read-write"));
    register(&mut Client::connect(&server.url).await.unwrap(), FAN).await;
    let ledger = Ledger::default();
    let workers = [0, 1].map(|_| ledger.worker(&[&server.url], 8, Duration::from_millis(20)));
    let loads = [0, 1, 2, 3].map(|_| Load::start(&server.url, "t/fan", Duration::ZERO));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ran = ledger.steps();
    primary.kill();
    health(&server.url, ServingStatus::NotServing).await;
    let promoted = Instant::now();
    let lead = session(&standby.url()).await;
    assert!(
        lead.query_one("SELECT pg_promote()", &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
    health(&server.url, ServingStatus::Serving).await;
    println!(
        "{ran} steps ran on the primary; served by the other one {:?} after the order",
        promoted.elapsed()
    );
    assert!(
        promoted.elapsed() < Duration::from_secs(15),
        "it took {:?}",
        promoted.elapsed()
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut tasks = Vec::new();
    for load in loads {
        assert_says_when_to_come_back(&load.refusals());
        tasks.extend(load.stop().await);
    }
    // Workers do not repeat results that the primary had acknowledged.
    all_done_once(&lead, &tasks, &ledger, workers).await;
    println!("{} tasks acknowledged, all there and complete", tasks.len());
}
