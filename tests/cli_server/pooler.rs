//! Behind a real pgbouncer: session pooling works, though the pooler drops settings of the
//! connection request; transaction pooling is refused.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
    process::{Child, Command},
};

use rustix::process::Signal;
use tasker_devdb::Cluster;
use tokio::net::{TcpListener, TcpStream};

use super::{
    Listening, run, server,
    support::{TestDb, connect, own_cluster, server::eventually, tool},
    tasker,
};

const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/linear.yaml");

/// A pgbouncer in front of a cluster's database `own`. Dropping this ends it.
struct Pooler {
    child: Child,
    port: u16,
    config: PathBuf,
}

impl Pooler {
    async fn start(cluster: &Cluster, mode: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let url = cluster.url();
        let password = url.split([':', '@']).nth(2).unwrap();
        let config = cluster.dir().join(format!("{mode}.ini"));
        let text = format!(
            "[databases]\nown = host=127.0.0.1 port={} dbname=own user=postgres password={password}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\nunix_socket_dir =\n\
             pool_mode = {mode}\ndefault_pool_size = 50\nignore_startup_parameters = options\n",
            cluster.port()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(tool("pgbouncer"));
        if rustix::process::geteuid().is_root() {
            // pgbouncer refuses to run as root, as Postgres does.
            let owner = fs::metadata(cluster.dir().join("data"))
                .unwrap()
                .uid()
                .to_string();
            let name = Command::new("id")
                .args(["-nu", &owner])
                .output()
                .unwrap()
                .stdout;
            command
                .arg("-u")
                .arg(String::from_utf8(name).unwrap().trim());
        }
        let child = command.arg("-q").arg(&config).spawn().unwrap();
        let pooler = Self {
            child,
            port,
            config,
        };
        eventually("pgbouncer listens", || async {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        pooler
    }

    fn url(&self) -> String {
        // With settings that the pooler drops, as it would drop the server's.
        format!(
            "postgres://tasker@127.0.0.1:{}/own?options=-c%20search_path%3Dpublic",
            self.port
        )
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

async fn migrated(url: &str, schema: &str) -> super::Ended {
    let mut command = tasker(["migrate", "--schema", schema]);
    command.env("TASKER_DATABASE_URL", url);
    run(command).await
}

#[tokio::test]
#[ignore = "needs pgbouncer: make test"]
async fn cells_behind_a_session_pooler_stay_apart() {
    let cluster = own_cluster().await;
    let db = TestDb::on(&cluster).await;
    let pooler = Pooler::start(&cluster, "session").await;
    let admin = connect(db.url()).await;
    for schema in ["one", "two"] {
        migrated(&pooler.url(), schema).await.ok();
    }
    let places = "SELECT string_agg(DISTINCT schemaname, ' ' ORDER BY schemaname) FROM pg_tables
                   WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    assert_eq!(
        admin
            .query_one(places, &[])
            .await
            .unwrap()
            .get::<_, String>(0),
        "one tasker two"
    );

    let (one, two) = tokio::join!(
        Listening::start(server(&pooler.url(), &["--schema", "one"])),
        Listening::start(server(&pooler.url(), &["--schema", "two"])),
    );
    run(tasker([
        "template", "register", TEMPLATE, "--server", &one.url,
    ]))
    .await
    .ok();
    let listed = |server: &Listening| run(tasker(["template", "list", "--server", &server.url]));
    assert_ne!(listed(&one).await.ok(), "");
    assert_eq!(listed(&two).await.ok(), "");
    for server in [one, two] {
        server.signal(Signal::TERM);
        assert_eq!(server.end().await, Some(0));
    }
}

#[tokio::test]
#[ignore = "needs pgbouncer: make test"]
async fn transaction_pooler_is_refused_with_a_hint() {
    let cluster = own_cluster().await;
    let db = TestDb::on(&cluster).await;
    for mode in ["transaction", "statement"] {
        let pooler = Pooler::start(&cluster, mode).await;
        let url = pooler.url();
        for ended in [migrated(&url, "one").await, run(server(&url, &[])).await] {
            let said = ended.failed(64);
            assert!(
                said.contains("pooler") && said.contains("pool_mode = session"),
                "{mode}: {said}"
            );
        }
    }
    let admin = connect(db.url()).await;
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'one'";
    assert_eq!(
        admin.query_one(made, &[]).await.unwrap().get::<_, i64>(0),
        0,
        "nothing was written"
    );
}
