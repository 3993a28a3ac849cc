//! Templates: checked, registered, listed and shown.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::{FILE, YAML, keys};
use crate::{support::server::Bench, tasker};

#[tokio::test]
async fn template_file_is_validated_and_registered() {
    let bench = Bench::new().await;
    let valid = bench.tasker(&["template", "validate", FILE]).await;
    assert!(
        valid
            .stderr
            .ends_with("valid: user_management/user_registration@2.6.0, 5 steps\n"),
        "{valid:?}"
    );
    assert_eq!(valid.ok(), "");

    let registered = bench.tasker(&["template", "register", FILE]).await;
    assert_eq!(
        registered.stderr,
        "registered user_management/user_registration@2.6.0, 5 steps\n"
    );
    assert_eq!(registered.ok(), "user_management/user_registration@2.6.0\n");
    let again = bench.tasker_json(&["template", "register", FILE]).await;
    assert_eq!(again["templates"][0]["created"], false);
    assert_eq!(again["templates"][0]["template"]["version"], "2.6.0");
}

#[tokio::test]
async fn template_list_shows_registered_templates() {
    let bench = Bench::new().await;
    bench.tasker(&["template", "register", FILE]).await.ok();
    let list = bench.tasker(&["template", "list"]).await.ok();
    assert!(
        list.lines()
            .nth(1)
            .unwrap()
            .starts_with("user_management/user_registration  2.6.0    5      20"),
        "{list}"
    );
    let list = bench
        .tasker_json(&["template", "list", "--namespace", "user_management"])
        .await;
    assert_eq!(
        list["templates"][0]["steps"].as_array().map(Vec::len),
        Some(5)
    );
    let none = bench
        .tasker(&["template", "list", "--namespace", "elsewhere"])
        .await;
    assert!(none.stderr.contains("no template matches"), "{none:?}");
    assert_eq!(none.ok(), "");
}

#[tokio::test]
async fn template_show_prints_a_registered_template() {
    let bench = Bench::new().await;
    bench.tasker(&["template", "register", FILE]).await.ok();
    let name = "user_management/user_registration";
    let shown = bench.tasker(&["template", "show", name]).await.ok();
    assert!(
        shown.contains("├─○─┐  setup_billing_profile") && shown.contains("SCHEMA OF THE CONTEXT"),
        "{shown}"
    );
    let shown = bench
        .tasker(&["template", "show", &format!("{name}@2.6.0"), "--yaml"])
        .await
        .ok();
    assert_eq!(shown, std::fs::read_to_string(FILE).unwrap());
    let shown = bench.tasker_json(&["template", "show", name]).await;
    let expected = [
        "namespace",
        "task_name",
        "version",
        "description",
        "schema",
        "steps",
        "yaml",
        "registered_at",
        "environment",
        "has_planner",
        "timeout_seconds",
        "retired_at",
        "retired_by",
        "retired_reason",
    ];
    assert_eq!(keys(&shown["template"]), expected);
    assert_eq!(
        shown["template"]["schema"]["properties"]["plan"]["default"],
        "free"
    );
    let missing = bench
        .tasker(&["template", "show", &format!("{name}@9.9.9")])
        .await
        .failed(1);
    assert!(
        missing.starts_with("error: cannot show user_management/user_registration@9.9.9: "),
        "{missing}"
    );
}

#[tokio::test]
async fn invalid_template_is_not_registered() {
    let bench = Bench::with(YAML).await;
    let wrong = YAML
        .replace("[pay]", "[pray]")
        .replace("checkout", "other")
        .replace("backoff", "backof");
    let mut validate = tasker(["template", "validate", "-"]);
    validate
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut validate = validate.spawn().unwrap();
    validate
        .stdin
        .take()
        .unwrap()
        .write_all(wrong.as_bytes())
        .await
        .unwrap();
    let ended = validate.wait_with_output().await.unwrap();
    let lines = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(
        (ended.status.code(), lines.lines().count()),
        (Some(65), 2),
        "{lines}"
    );
    assert!(
        lines.starts_with("-:4:39: step_templates[0].backof: ") && lines.contains("\n-:5:60: "),
        "{lines}"
    );

    let file =
        std::env::temp_dir().join(format!("tasker-cli-{}.yaml", uuid::Uuid::new_v4().simple()));
    let path = file.to_str().unwrap();
    std::fs::write(&file, &wrong).unwrap();
    let said = bench
        .tasker(&["template", "register", FILE, path])
        .await
        .failed(65);
    assert!(
        said.contains("pray") && said.ends_with("error: 2 problems in 1 file\n"),
        "{said}"
    );
    let list = bench
        .tasker_json(&["template", "list", "--namespace", "user_management"])
        .await;
    assert_eq!(
        list,
        json!({"templates": []}),
        "all files are checked before any is sent"
    );

    std::fs::write(&file, YAML.replace("0.3", "0.4")).unwrap();
    let said = bench
        .tasker(&["template", "register", path])
        .await
        .failed(1);
    assert!(
        said.contains("shop/checkout@1.0.0") || said.contains("1.0.0"),
        "{said}"
    );
    std::fs::remove_file(&file).unwrap();
    let said = bench
        .tasker(&["template", "register", path])
        .await
        .failed(1);
    assert!(said.contains("No such file"), "{said}");
}

#[tokio::test]
async fn warnings_are_shown_and_names_with_special_characters_accepted() {
    let bench = Bench::new().await;
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/rails/stock_count.yaml"
    );
    let checked = bench.tasker(&["template", "validate", file]).await.ok();
    assert_eq!(
        checked
            .lines()
            .filter(|line| line.contains(": warning: "))
            .count(),
        7,
        "{checked}"
    );
    let strict = bench
        .tasker(&["template", "validate", file, "--deny-warnings"])
        .await;
    assert!(
        strict.code == Some(65)
            && strict.stderr.contains("7 warnings in 1 file")
            && !strict.stderr.contains("valid:"),
        "{strict:?}"
    );
    let strict = bench
        .tasker(&["template", "validate", file, "--deny-warnings", "--json"])
        .await;
    let document: serde_json::Value = serde_json::from_str(&strict.stdout).unwrap();
    assert_eq!(document["files"][0]["valid"], json!(false), "{strict:?}");
    let denied = bench
        .tasker(&["template", "register", file, "--deny-warnings"])
        .await
        .failed(65);
    assert!(
        denied.contains(":7:1: warning: task_handler_class: the key is not used"),
        "{denied}"
    );
    assert_eq!(
        bench.tasker_json(&["template", "list"]).await["templates"],
        json!([])
    );

    let stored = bench.tasker(&["template", "register", file]).await;
    assert!(
        stored
            .stderr
            .contains(":7:1: warning: task_handler_class: the key is not used"),
        "{stored:?}"
    );
    assert_eq!(stored.ok(), "warehouse/warehouse.stock_count@1.2.0\n");

    let path = std::env::temp_dir().join(format!("tasker-odd-name-{}.yaml", std::process::id()));
    std::fs::write(
        &path,
        "namespace: '-n:$é'\nname: 'a::B?#%&'\nstep_templates: [{name: '~', handler: h}]\n",
    )
    .unwrap();
    let name = bench
        .tasker(&["template", "register", path.to_str().unwrap()])
        .await
        .ok();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(name, "-n:$é/a::B?#%&@0.1.0\n");
    let shown = bench
        .tasker(&["template", "show", "--json", "--", name.trim_end()])
        .await
        .ok();
    assert!(shown.contains(r#""namespace": "-n:$é""#), "{shown}");
}
