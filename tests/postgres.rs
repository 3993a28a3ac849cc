//! The private Postgres: it starts, keeps its data, and ends with the process that started it.

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use support::{TestDb, connect, own_cluster, own_options, start};
use tasker_devdb::{Cluster, Error, Options};
use tokio_postgres::{Client, error::SqlState};

/// The environment variable that turns [`holder`] from an empty test into a process that holds a
/// cluster.
const HOLD: &str = "TASKER_TEST_HOLD";

#[tokio::test]
async fn test_gets_a_database_of_its_own() {
    let migrations = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"))
        .unwrap()
        .count()
        .to_string();
    let (one, two) = tokio::join!(TestDb::new(), TestDb::new());
    assert_ne!(one.url(), two.url());
    for db in [&one, &two] {
        assert_eq!(
            one_value(
                &db.connect().await,
                "SELECT max(version)::text FROM migrations"
            )
            .await
            .as_deref(),
            Some(migrations.as_str())
        );
    }
    one.connect()
        .await
        .batch_execute("CREATE TABLE only_here (x int)")
        .await
        .unwrap();
    let seen = one_value(
        &two.connect().await,
        "SELECT to_regclass('only_here')::text",
    )
    .await;
    assert_eq!(seen, None);
    let encoding = one_value(&two.connect().await, "SHOW server_encoding").await;
    assert_eq!(encoding.as_deref(), Some("UTF8"));
}

#[tokio::test]
async fn default_cluster_is_durable_and_leaves_no_files() {
    let cluster = start(Options {
        initdb_cache: None,
        ..Options::default()
    })
    .await;
    let client = connect(&cluster.url()).await;
    for (setting, value) in [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("max_connections", "200"),
    ] {
        assert_eq!(
            one_value(&client, &format!("SHOW {setting}"))
                .await
                .as_deref(),
            Some(value),
            "{setting}"
        );
    }
    let collation = "SELECT datcollate::text FROM pg_database WHERE datname = current_database()";
    assert_eq!(one_value(&client, collation).await.as_deref(), Some("C"));
    let (dir, pid) = (cluster.dir().to_owned(), cluster.pid());
    let mode = fs::metadata(dir.join("password"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    cluster.stop().await;
    assert!(!dir.exists());
    assert!(!runs(pid));
}

#[tokio::test]
async fn dropped_cluster_leaves_no_process() {
    let cluster = own_cluster().await;
    let (dir, pid) = (cluster.dir().to_owned(), cluster.pid());
    drop(cluster);
    assert!(!dir.exists());
    assert!(!runs(pid));
}

#[tokio::test]
async fn killed_cluster_leaves_no_files() {
    let cluster = own_cluster().await;
    let dir = cluster.dir().to_owned();
    cluster.kill();
    drop(cluster);
    assert!(!dir.exists());
}

#[tokio::test]
async fn connection_without_the_password_is_refused() {
    let cluster = own_cluster().await;
    let url = format!(
        "postgres://postgres:guess@127.0.0.1:{}/postgres",
        cluster.port()
    );
    let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code().map(SqlState::code), Some("28P01"));
}

#[tokio::test]
async fn data_folder_is_kept_and_used_by_one_process_at_a_time() {
    let folder = Folder::new();
    let options = || Options {
        data_dir: Some(folder.0.clone()),
        ..own_options()
    };
    let cluster = start(options()).await;
    note(&cluster, "kept").await;

    let refused = Cluster::start(options()).await.unwrap_err();
    assert!(
        matches!(&refused, Error::InUse { pid: Some(pid), .. } if *pid == std::process::id()),
        "{refused}"
    );
    cluster.stop().await;

    let cluster = start(options()).await;
    assert_eq!(notes(&cluster).await, ["kept"]);
}

#[tokio::test]
async fn killed_server_recovers_committed_data() {
    let mut cluster = own_cluster().await;
    note(&cluster, "before").await;
    let (url, pid) = (cluster.url(), cluster.pid());
    cluster.kill();
    assert!(!runs(pid));
    assert!(
        tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .is_err()
    );

    cluster.restart().await.unwrap();
    assert_eq!(cluster.url(), url);
    note(&cluster, "after").await;
    cluster.restart().await.unwrap();
    assert_eq!(notes(&cluster).await, ["before", "after"]);
}

#[tokio::test]
async fn server_that_cannot_start_reports_the_reason() {
    let settings = vec![("shared_buffers".to_owned(), "a lot".to_owned())];
    let error = Cluster::start(Options {
        settings,
        ..own_options()
    })
    .await
    .unwrap_err();
    let Error::Start { tail, log, .. } = &error else {
        panic!("{error}")
    };
    assert!(
        tail.contains(r#"invalid value for parameter "shared_buffers""#),
        "{error}"
    );
    assert!(!log.exists(), "the folder of a failed start stays behind");
}

#[tokio::test]
async fn data_of_another_major_version_is_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("data")).unwrap();
    fs::write(folder.0.join("data/PG_VERSION"), "9\n").unwrap();
    let options = Options {
        data_dir: Some(folder.0.clone()),
        ..own_options()
    };
    let binaries = tasker_devdb::find().unwrap();
    let error = Cluster::start(Options {
        binaries: Some(binaries),
        ..options.clone()
    })
    .await
    .unwrap_err();
    assert!(matches!(&error, Error::Major { made_by: 9, .. }), "{error}");
    let error = Cluster::start(options).await.unwrap_err();
    assert!(
        matches!(&error, Error::Find(_)) && error.to_string().contains(" 9"),
        "{error}"
    );
}

/// A copy of the cache that ends in the middle, as when the process is killed.
#[tokio::test]
async fn interrupted_copy_of_the_initdb_cache_leaves_no_data() {
    let (cache, folder) = (Folder::new(), Folder::new());
    let options = |data_dir: Option<PathBuf>| Options {
        data_dir,
        initdb_cache: Some(cache.0.clone()),
        ..own_options()
    };
    // Fills the cache.
    start(options(None)).await.stop().await;
    let cached = fs::read_dir(&cache.0).unwrap().next().unwrap().unwrap();
    let broken = cached.path().join("data/broken");
    std::os::unix::fs::symlink("/nowhere", &broken).unwrap();
    let error = Cluster::start(options(Some(folder.0.clone())))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
    assert!(
        !folder.0.join("data").exists(),
        "half a copy counts as data"
    );

    fs::remove_file(&broken).unwrap();
    fs::write(folder.0.join("data.new/left"), "by the interrupted copy").unwrap();
    let cluster = start(options(Some(folder.0.clone()))).await;
    note(&cluster, "written").await;
    assert_eq!(notes(&cluster).await, ["written"]);
    cluster.stop().await;
    assert!(!folder.0.join("data.new").exists() && !folder.0.join("data/left").exists());
}

/// A process killed by SIGKILL cannot clean up: the kernel has to end its Postgres, and the next
/// one takes over the data.
#[tokio::test]
async fn server_ends_with_its_parent_process() {
    let folder = Folder::new();
    let mut holder = Command::new(std::env::current_exe().unwrap());
    holder
        .args(["--exact", "holder", "--nocapture"])
        .env(HOLD, &folder.0)
        .stdout(Stdio::piped())
        .process_group(0);
    let mut holder = holder.spawn().unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let pid: u32 = lines
        .find_map(|line| line.unwrap().strip_prefix("postgres ")?.parse().ok())
        .unwrap();
    assert!(runs(pid));

    let options = || Options {
        data_dir: Some(folder.0.clone()),
        ..own_options()
    };
    let refused = Cluster::start(options()).await.unwrap_err();
    assert!(
        refused.to_string().contains(&format!(
            "is in use by another process (pid {})",
            holder.id()
        )),
        "{refused}"
    );

    holder.kill().unwrap();
    holder.wait().unwrap();
    // At once, while the old Postgres may still write its last checkpoint.
    let cluster = start(options()).await;
    assert!(!runs(pid));
    assert_eq!(notes(&cluster).await, ["from the holder"]);
}

/// Not a test by itself: the process that the test above kills.
#[tokio::test]
async fn holder() {
    let Some(dir) = std::env::var_os(HOLD) else {
        return;
    };
    let cluster = start(Options {
        data_dir: Some(dir.into()),
        ..own_options()
    })
    .await;
    note(&cluster, "from the holder").await;
    println!("\npostgres {}", cluster.pid());
    // Until it is killed, or for a minute if the test no longer runs.
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// A process id in `postmaster.pid` that now belongs to another process must not block the start.
#[tokio::test]
async fn stale_pid_file_is_ignored() {
    let folder = Folder::new();
    let options = || Options {
        data_dir: Some(folder.0.clone()),
        ..own_options()
    };
    let cluster = start(options()).await;
    note(&cluster, "here").await;
    let pid_file = folder.0.join("data/postmaster.pid");
    let stale = fs::read_to_string(&pid_file).unwrap();
    cluster.kill();
    drop(cluster);

    let mut stranger = Command::new("sleep")
        .arg("20")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let rest = stale.split_once('\n').unwrap().1;
    fs::write(&pid_file, format!("{}\n{rest}", stranger.id())).unwrap();
    let cluster = start(options()).await;
    assert_eq!(notes(&cluster).await, ["here"]);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

async fn note(cluster: &Cluster, words: &str) {
    let client = connect(&cluster.url()).await;
    client
        .batch_execute("CREATE TABLE IF NOT EXISTS notes (at serial, words text)")
        .await
        .unwrap();
    client
        .execute("INSERT INTO notes (words) VALUES ($1)", &[&words])
        .await
        .unwrap();
}

async fn notes(cluster: &Cluster) -> Vec<String> {
    let client = connect(&cluster.url()).await;
    let rows = client
        .query("SELECT words FROM notes ORDER BY at", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn one_value(client: &Client, query: &str) -> Option<String> {
    client.query_one(query, &[]).await.unwrap().get(0)
}

/// Whether the process runs; a zombie does not.
fn runs(pid: u32) -> bool {
    let until = Instant::now() + Duration::from_secs(2);
    let state = || {
        let mut stat = String::new();
        fs::File::open(format!("/proc/{pid}/stat"))
            .ok()?
            .read_to_string(&mut stat)
            .ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    };
    while state().is_some_and(|state| state == 'Z') && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    state().is_some_and(|state| state != 'Z')
}

/// A folder for a cluster's data, which the unprivileged user can reach when the tests run as root.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let place = if Path::new("/dev/shm").is_dir() {
            "/dev/shm"
        } else {
            "/tmp"
        };
        let dir = Path::new(place).join(format!("tasker-test-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
