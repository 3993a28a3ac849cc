//! A folder of templates: the command checks all files before it sends one, and reports each.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{Ended, run, support::server::Bench, tasker};

struct Folder(PathBuf);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let path =
            std::env::temp_dir().join(format!("tasker-folder-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&path).unwrap();
        let folder = Self(path);
        files
            .iter()
            .for_each(|(name, text)| folder.write(name, text));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn template(name: &str, handler: &str) -> String {
    format!(
        "{{task_name: {name}, namespace: f, version: 1.0.0, step_templates: [{{name: a, handler_class: {handler}}}]}}"
    )
}

async fn tasker_at(bench: &Bench, args: &[&str]) -> Ended {
    let mut command = tasker(args);
    command.env("TASKER_SERVER", &bench.server.url);
    run(command).await
}

#[tokio::test]
async fn folder_is_checked_before_any_file_is_sent() {
    let bench = Bench::new().await;
    let (one, two) = (template("one", "h"), template("two", "h"));
    let folder = Folder::new(&[
        ("2.yml", &two),
        ("1.yaml", &one),
        ("3.yaml", "step_templates: 7"),
        ("notes.txt", "-"),
    ]);
    folder.write("4.yaml", "");
    fs::write(folder.0.join("5.yaml"), b"\xff\xfe").unwrap();
    let validated = tasker_at(
        &bench,
        &["template", "validate", folder.path(), "/no/such.yaml"],
    )
    .await;
    assert_eq!(validated.code, Some(65), "{validated:?}");
    for file in [
        "3.yaml:1:",
        "4.yaml:1:",
        "5.yaml:1:1: not UTF-8 after 0 bytes",
    ] {
        assert!(
            validated
                .stdout
                .contains(&format!("{}/{file}", folder.path())),
            "{file}: {validated:?}"
        );
    }
    assert!(
        validated.stderr.contains("valid: f/one@1.0.0")
            && validated.stderr.contains("valid: f/two@1.0.0")
    );
    assert!(
        validated
            .stderr
            .contains("cannot read /no/such.yaml: No such file"),
        "{validated:?}"
    );
    assert!(validated.stderr.ends_with(" in 3 files\n"), "{validated:?}");
    let refused = tasker_at(&bench, &["template", "register", folder.path()])
        .await
        .failed(65);
    assert!(
        refused.contains("3.yaml:1:") && refused.contains("5.yaml:1:1:"),
        "{refused}"
    );
    let listed: Value = serde_json::from_str(
        &tasker_at(&bench, &["template", "list", "--json"])
            .await
            .ok(),
    )
    .unwrap();
    assert_eq!(
        listed,
        json!({"templates": []}),
        "all files are checked before any is sent"
    );
}

#[tokio::test]
async fn folder_is_registered_in_name_order() {
    let bench = Bench::new().await;
    let (one, two) = (template("one", "h"), template("two", "h"));
    let folder = Folder::new(&[("2.yml", &two), ("1.yaml", &one), ("notes.txt", "-")]);
    assert_eq!(
        tasker_at(&bench, &["template", "register", folder.path()])
            .await
            .ok(),
        "f/one@1.0.0\nf/two@1.0.0\n"
    );
    // Each refused file is reported, and the others are stored.
    folder.write("1.yaml", &template("one", "other"));
    folder.write("2.yml", &template("two", "other"));
    folder.write("3.yaml", &template("three", "h"));
    let some = tasker_at(&bench, &["template", "register", folder.path()]).await;
    assert_eq!(
        (some.code, some.stdout.as_str()),
        (Some(1), "f/three@1.0.0\n"),
        "{some:?}"
    );
    for file in ["1.yaml", "2.yml"] {
        assert!(
            some.stderr.contains(&format!(
                "error: cannot register {}/{file}: ",
                folder.path()
            )),
            "{some:?}"
        );
    }
    let empty = Folder::new(&[("notes.txt", "-")]);
    let said = tasker_at(&bench, &["template", "register", empty.path()])
        .await
        .failed(1);
    assert!(
        said.contains("has no file that ends in .yaml or .yml") && said.contains("hint: "),
        "{said}"
    );
}
