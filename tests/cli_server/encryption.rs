//! TLS to Postgres: verification, refusals and their advice, and the secrecy of a password.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use tasker::store::Db;
use tasker_devdb::Cluster;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::support::{SCHEMA, connect, own_cluster, server::eventually};

/// A Postgres that accepts TLS, and the certificates for it.
struct Encrypted {
    cluster: Cluster,
    folder: PathBuf,
}

impl Encrypted {
    async fn start() -> Self {
        let cluster = own_cluster().await;
        let folder = cluster.dir().join("tls");
        fs::create_dir(&folder).unwrap();
        for authority in ["ca", "other"] {
            let (key, pem) = (format!("{authority}.key"), format!("{authority}.pem"));
            let subject = format!("/CN={authority}");
            let mut args = vec![
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ];
            args.extend([
                "-days",
                "2",
                "-addext",
                "basicConstraints=critical,CA:TRUE",
                "-subj",
                &subject,
            ]);
            args.extend(["-keyout", &key, "-out", &pem]);
            openssl(&folder, &args);
        }
        leaf(&folder, "ca", "server", "db.test");
        leaf(&folder, "ca", "client", "client");
        leaf(&folder, "other", "stranger", "client");
        let data = cluster.dir().join("data");
        for (from, to) in [
            ("server.pem", "server.crt"),
            ("server.key", "server.key"),
            ("ca.pem", "root.crt"),
        ] {
            give(&folder.join(from), &data.join(to), &data);
        }
        let admin = connect(&cluster.url()).await;
        admin
            .batch_execute("ALTER SYSTEM SET ssl = on")
            .await
            .unwrap();
        admin
            .batch_execute("ALTER SYSTEM SET ssl_ca_file = 'root.crt'")
            .await
            .unwrap();
        admin
            .batch_execute("SELECT pg_reload_conf()")
            .await
            .unwrap();
        let encrypted = Self { cluster, folder };
        eventually("it takes TLS", || async {
            encrypted
                .db("host=db.test hostaddr=127.0.0.1 sslrootcert=ca.pem")
                .connect_dedicated()
                .await
                .ok()
        })
        .await;
        encrypted
    }

    /// The database with these parameters; file names are relative to the folder.
    fn db(&self, parameters: &str) -> Db {
        Db::new(&self.url(parameters), SCHEMA).unwrap()
    }

    fn url(&self, parameters: &str) -> String {
        let here = |word: &str| match word.split_once('=') {
            Some((name, file)) if file.ends_with(".pem") || file.ends_with(".key") => {
                format!("{name}={}", self.folder.join(file).display())
            }
            _ => word.to_owned(),
        };
        let parameters: Vec<String> = parameters.split(' ').map(here).collect();
        let url = self.cluster.url();
        let password = url.split([':', '@']).nth(2).unwrap();
        let port = self.cluster.port();
        format!(
            "{} port={port} user=postgres dbname=postgres password={password}",
            parameters.join(" ")
        )
    }

    /// Tries to connect; returns the error if that failed.
    async fn refusal(&self, parameters: &str) -> Option<String> {
        let db = match Db::new(&self.url(parameters), SCHEMA) {
            Ok(db) => db,
            Err(error) => return Some(error.to_string()),
        };
        db.connect_dedicated()
            .await
            .err()
            .map(|error| error.to_string())
    }
}

fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes a certificate for a name.
fn leaf(folder: &Path, authority: &str, file: &str, name: &str) {
    let [key, request, pem, extensions] =
        ["key", "csr", "pem", "ext"].map(|kind| format!("{file}.{kind}"));
    fs::write(
        folder.join(&extensions),
        format!("subjectAltName=DNS:{name}\nbasicConstraints=CA:FALSE\n"),
    )
    .unwrap();
    let subject = format!("/CN={name}");
    let mut args = vec![
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    args.extend(["-subj", &subject, "-keyout", &key, "-out", &request]);
    openssl(folder, &args);
    let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
    let mut args = vec![
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
    ];
    args.extend(["-days", "2", "-extfile", &extensions, "-out", &pem]);
    openssl(folder, &args);
}

/// Copies a file to a path where Postgres reads it.
fn give(from: &Path, to: &Path, data: &Path) {
    fs::copy(from, to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).unwrap();
    let owner = fs::metadata(data).unwrap();
    chown(to, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test]
#[ignore = "needs openssl: make test"]
async fn certificate_is_verified_by_sslmode() {
    let server = Encrypted::start().await;
    let named = "host=db.test hostaddr=127.0.0.1";
    let misnamed = "host=wrong.test hostaddr=127.0.0.1";
    for (parameters, words) in [
        (
            format!("{named} sslmode=verify-full sslrootcert=ca.pem"),
            None,
        ),
        (format!("{named} sslmode=require sslrootcert=ca.pem"), None),
        (
            format!("{named} sslmode=verify-full sslrootcert=other.pem"),
            Some("sslrootcert=/path/to/ca.pem"),
        ),
        (
            format!("{named} sslmode=require"),
            Some("sslrootcert=/path/to/ca.pem"),
        ),
        (
            format!("{misnamed} sslmode=verify-full sslrootcert=ca.pem"),
            Some("does not name `wrong.test`"),
        ),
        (
            format!("{misnamed} sslmode=verify-ca sslrootcert=ca.pem"),
            None,
        ),
        (
            format!("{misnamed} sslmode=verify-ca sslrootcert=other.pem"),
            Some("is not trusted here"),
        ),
        (format!("{misnamed} sslmode=prefer"), None),
        (
            format!("{named} sslmode=require sslrootcert=nothing.pem"),
            Some("nothing.pem: cannot be read"),
        ),
        (
            format!(
                "{named} sslmode=require sslrootcert=ca.pem sslcert=client.pem sslkey=stranger.key"
            ),
            Some("belong together"),
        ),
    ] {
        let said = server.refusal(&parameters).await;
        match words {
            None => assert_eq!(said, None, "{parameters}"),
            Some(words) => assert!(
                said.as_ref().is_some_and(|said| said.contains(words)),
                "{parameters}: {said:?}"
            ),
        }
    }
    // The connection is really encrypted, and a dropped query is cancelled over TLS too.
    let db = server.db(&format!("{named} sslrootcert=ca.pem"));
    let admin = connect(&server.cluster.url()).await;
    let session = db.read().await.unwrap();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    assert!(
        session
            .query_one(encrypted, &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    );
    super::dropped::leave(session, "SELECT pg_sleep(25)").await;
    super::dropped::runs_no_more(&admin, "%pg_sleep(25)%").await;
    a_client_certificate_is_asked_for(&server, misnamed).await;
}

async fn a_client_certificate_is_asked_for(server: &Encrypted, misnamed: &str) {
    let hba = server.cluster.dir().join("data/pg_hba.conf");
    fs::write(
        hba,
        "hostssl all all all scram-sha-256 clientcert=verify-ca\n",
    )
    .unwrap();
    let verified = format!("{misnamed} sslmode=verify-ca sslrootcert=ca.pem");
    let admin = connect(&server.cluster.url()).await;
    admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let said = eventually("it asks", || server.refusal(&verified)).await;
    assert!(
        said.contains("name it with sslcert=") && said.contains("sslkey="),
        "{said}"
    );
    assert_eq!(
        server
            .refusal(&format!("{verified} sslcert=client.pem sslkey=client.key"))
            .await,
        None
    );
    let said = server
        .refusal(&format!(
            "{verified} sslcert=stranger.pem sslkey=stranger.key"
        ))
        .await
        .unwrap();
    assert!(
        said.contains("refuses the certificate of this client"),
        "{said}"
    );
    let said = server.refusal("host=127.0.0.1").await.unwrap();
    assert!(
        said.contains("refuses connections without encryption")
            && said.contains("sslmode=verify-full"),
        "{said}"
    );
}

/// Listens as a Postgres that has no TLS and asks for the password in plain text; returns all bytes
/// that it receives.
async fn without_tls(listener: TcpListener) -> Vec<u8> {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut heard = Vec::new();
    for answer in [&b"N"[..], &[b'R', 0, 0, 0, 8, 0, 0, 0, 3]] {
        heard.extend(said(&mut socket).await);
        if socket.write_all(answer).await.is_err() {
            break;
        }
    }
    heard.extend(said(&mut socket).await);
    heard
}

async fn said(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = vec![0; 4_096];
    let n = socket.read(&mut bytes).await.unwrap_or(0);
    bytes.truncate(n);
    bytes
}

#[tokio::test]
async fn password_is_not_sent_in_plain_text_if_tls_is_required() {
    for secret in [
        "sslmode-hunter2",
        "sslmode=disable;hunter2",
        "hunter2?sslmode=disable&a=b",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = tokio::spawn(without_tls(listener));
        let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        // An address of this machine that only its resolver recognises as one.
        let db = Db::new(&format!("postgres://u:{encoded}@127.1:{port}/d"), SCHEMA).unwrap();
        let refused = db.connect_dedicated().await.err().unwrap().to_string();
        assert!(refused.contains("does not offer TLS"), "{refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        let heard = heard.await.unwrap();
        assert_eq!(
            heard,
            [0, 0, 0, 8, 4, 210, 22, 47],
            "nothing but the question for TLS is sent"
        );
    }
}
