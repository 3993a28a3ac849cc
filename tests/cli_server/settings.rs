//! A wrong setting is refused with exit code 64, before any file or connection is opened, and the
//! message names the expected value.

use std::net::TcpListener;

use super::{Ended, run, server, support::TestDb, tasker};

/// A database that no command needs to reach.
const ANY: &str = "postgres://u@127.0.0.1:1/d";

async fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
    let mut command = tasker(args);
    command.envs(env.iter().copied());
    let Ended {
        code,
        stdout,
        stderr,
    } = run(command).await;
    assert_eq!(
        (code, stdout.as_str()),
        (Some(64), ""),
        "{args:?} {env:?}: {stderr}"
    );
    assert!(stderr.starts_with("error: "), "{stderr}");
    assert!(
        !stderr.contains("secret"),
        "a password is nobody's business: {stderr}"
    );
    stderr
}

/// An option, an invalid value, and a part of the expected message.
const WRONG_OPTIONS: &[(&str, &str, &str)] = &[
    (
        "--listen",
        "tasker.internal:7233",
        "is not an address: expected such as 127.0.0.1:7233",
    ),
    ("--listen", "7233", "is not an address"),
    ("--listen", "127.0.0.1:65536", "is not an address"),
    (
        "--lease-seconds",
        "0.5",
        "is out of bounds: expected 1 to 300",
    ),
    (
        "--lease-seconds",
        "301",
        "is out of bounds: expected 1 to 300",
    ),
    (
        "--lease-seconds",
        "ten",
        "is out of bounds: expected 1 to 300",
    ),
    (
        "--lease-seconds",
        "NaN",
        "is out of bounds: expected 1 to 300",
    ),
    (
        "--drain-seconds",
        "-1",
        "is out of bounds: expected 0 to 3600",
    ),
    (
        "--drain-seconds",
        "3601",
        "is out of bounds: expected 0 to 3600",
    ),
    (
        "--retain",
        "59m",
        "is out of bounds: expected 1h to 3650d, such as 12h or 30d or `forever`",
    ),
    (
        "--retain",
        "3651d",
        "is out of bounds: expected 1h to 3650d",
    ),
    ("--retain", "30", "is out of bounds: expected 1h to 3650d"),
    (
        "--retain",
        "never",
        "is out of bounds: expected 1h to 3650d",
    ),
    ("--log", "tasker=loud", "is not a filter"),
    ("--log-format", "xml", "is unknown: expected text or json"),
    (
        "--cors-origin",
        "*",
        "every page of the web could command this server",
    ),
    (
        "--cors-origin",
        "https://ops.example.com/",
        "expected scheme, host and perhaps a port",
    ),
    ("--allowed-host", "*", "name the hosts"),
    (
        "--allowed-host",
        "https://tasker.example.com",
        "expected the name of a host without scheme and port",
    ),
    (
        "--allowed-host",
        "tasker.example.com:7233",
        "expected the name of a host without scheme and port",
    ),
    (
        "--schema",
        "Tasker",
        "is not a plain name: expected [a-z_][a-z0-9_]*",
    ),
    ("--schema", "a; DROP TABLE tasks", "is not a plain name"),
    ("--schema", "", "is not a plain name"),
    (
        "--database-url",
        "",
        "no database: neither TASKER_DATABASE_URL nor --database-url is set",
    ),
    (
        "--database-url",
        "mysql://u:secret@h/d",
        "expected postgres://user:password@host:port/database",
    ),
    (
        "--database-url",
        "postgres://u:secret@h:many/d",
        "a port is not a number from 1 to 65535",
    ),
    (
        "--database-url",
        "postgres:///d",
        "no host; expected postgres://",
    ),
];

#[tokio::test]
async fn invalid_option_is_named() {
    for &(option, value, expected) in WRONG_OPTIONS {
        let option_value = format!("{option}={value}");
        let said = refused(&["server", &option_value], &[("TASKER_DATABASE_URL", ANY)]).await;
        assert!(said.contains(expected), "{option_value}: {said}");
        if !value.is_empty() && option != "--database-url" {
            assert!(
                said.contains(&format!("`{value}`")),
                "{option_value}: {said}"
            );
        }
    }
}

#[tokio::test]
async fn invalid_environment_variable_is_named() {
    for (name, value, expected) in [
        (
            "TASKER_LISTEN",
            "nowhere",
            "--listen `nowhere` is not an address",
        ),
        ("TASKER_LEASE_SECONDS", "0", "--lease-seconds `0`"),
        ("TASKER_DRAIN_SECONDS", "x", "--drain-seconds `x`"),
        (
            "TASKER_CORS_ORIGIN",
            "https://a.example.com,null",
            "--cors-origin `null`",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "https://collector:4317",
            "for TLS, run a collector beside this process",
        ),
        ("TASKER_RETAIN", "0d", "--retain `0d`"),
        ("TASKER_LOG", "a=b=c", "--log `a=b=c`"),
        ("TASKER_SCHEMA", "9", "schema `9`"),
        ("TASKER_DATABASE_URL", "u:secret@h", "expected postgres://"),
    ] {
        let said = refused(&["server"], &[("TASKER_DATABASE_URL", ANY), (name, value)]).await;
        assert!(said.contains(expected), "{name}={value}: {said}");
    }
}

#[tokio::test]
async fn missing_database_is_refused_with_a_hint() {
    for command in [
        &["server"][..],
        &["migrate"],
        &["prune", "--older-than", "1h"],
    ] {
        let said = refused(command, &[]).await;
        assert!(
            said.contains("no database: neither TASKER_DATABASE_URL nor --database-url is set"),
            "{said}"
        );
        assert!(said.contains("hint: set it to postgres://"), "{said}");
    }
}

#[tokio::test]
async fn database_that_refuses_the_connection_is_a_wrong_setting() {
    let db = TestDb::empty().await;
    let (nobody, nowhere) = (
        db.url().replacen("//postgres:", "//nobody:", 1),
        format!("{}_nowhere", db.url()),
    );
    for (url, expected) in [
        (&nobody, "password authentication failed"),
        (&nowhere, "does not exist"),
    ] {
        for command in ["server", "migrate"] {
            let said = refused(
                &[command],
                &[
                    ("TASKER_DATABASE_URL", url),
                    ("TASKER_LISTEN", "127.0.0.1:0"),
                ],
            )
            .await;
            assert!(
                said.contains(expected) && said.contains("hint: check the user, the password"),
                "{said}"
            );
        }
    }
}

#[tokio::test]
async fn unmigrated_database_is_refused_with_the_command() {
    let db = TestDb::empty().await;
    let said = run(server(db.url(), &[])).await.failed(64);
    assert!(
        said.contains("schema `tasker` is at version 0, this version needs "),
        "{said}"
    );
    assert!(
        said.contains("run `tasker migrate`, or start the server with --migrate"),
        "{said}"
    );
}

#[tokio::test]
async fn database_of_a_newer_version_is_refused() {
    let db = TestDb::new().await;
    let add = "INSERT INTO migrations (version, name) VALUES (1000000, 'of tomorrow')";
    db.connect().await.batch_execute(add).await.unwrap();
    for more in [&[][..], &["--migrate"][..]] {
        let said = run(server(db.url(), more)).await.failed(64);
        assert!(
            said.contains("at schema version 1000000, newer than this version knows"),
            "{said}"
        );
    }
    let mut migrate = tasker(["migrate"]);
    migrate.env("TASKER_DATABASE_URL", db.url());
    assert!(run(migrate).await.failed(64).contains("use a newer tasker"));
}

#[tokio::test]
async fn port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in ["server", "dev"] {
        let mut command = tasker([command, "--listen", &address]);
        command.env("TASKER_DATABASE_URL", ANY);
        let said = run(command).await.failed(1);
        assert!(
            said.contains(&format!(
                "cannot listen on {address}: Address already in use"
            )),
            "{said}"
        );
        assert!(said.contains("choose another one with --listen"), "{said}");
    }
}

#[tokio::test]
async fn invalid_command_line_exits_with_usage() {
    for args in [
        &["server", "--no-such-option"][..],
        &["serve"][..],
        &["dev", "--ephemeral", "--data-dir", "x"][..],
    ] {
        assert!(
            run(tasker(args)).await.failed(2).contains("Usage: "),
            "{args:?}"
        );
    }
}
