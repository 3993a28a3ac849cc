//! Imports run one way: cli -> http -> grpc -> engine -> store -> domain, and from these parts to
//! the crates of the workspace.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each part of `src/`, and the parts and crates of the workspace that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &["tasker_template"]),
    ("proto", &["tasker_proto"]),
    ("json", &["proto", "tasker_template"]),
    ("store", &["domain", "tasker_template"]),
    (
        "engine",
        &["domain", "store", "tasker_template", "telemetry"],
    ),
    (
        "http",
        &["domain", "engine", "grpc", "json", "proto", "store"],
    ),
    (
        "grpc",
        &["domain", "engine", "proto", "store", "tasker_template"],
    ),
    (
        "server",
        &["engine", "grpc", "http", "proto", "store", "telemetry"],
    ),
    (
        "bench",
        &[
            "domain",
            "proto",
            "store",
            "tasker_devdb",
            "tasker_template",
            "tasker_worker",
        ],
    ),
    (
        "cli",
        &[
            "bench",
            "domain",
            "json",
            "proto",
            "server",
            "store",
            "tasker_devdb",
            "tasker_template",
            "tasker_worker",
            "telemetry",
        ],
    ),
];

/// A module of another crate that counts as a part.
const TELEMETRY: &str = "telemetry";

/// Each crate of `crates/`, and the crates of the workspace that it depends on.
const CRATES: &[(&str, &[&str])] = &[
    ("tasker-devdb", &[]),
    ("tasker-proto", &[]),
    ("tasker-template", &[]),
    ("tasker-worker", &["tasker-proto"]),
];

/// Crates that a part must not even name.
const MAY_NOT_NAME: &[(&str, &[&str])] = &[
    (
        "domain",
        &[
            "tokio",
            "tonic",
            "tokio_postgres",
            "axum",
            "SystemTime::now",
            "Instant::now",
        ],
    ),
    ("store", &["tonic", "axum"]),
    ("engine", &["tonic", "axum", "tokio_postgres"]),
    ("grpc", &["tokio_postgres"]),
    ("http", &["tokio_postgres"]),
    ("bench", &["tokio_postgres", "axum", "clap"]),
];

fn files(part: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true if path.ends_with("tests") => {}
                true => walk(&path, found),
                false if path.ends_with("tests.rs") => {}
                false => found.push(path),
            }
        }
    }
    let src = root().join("src");
    let (dir, file) = (src.join(part), src.join(format!("{part}.rs")));
    let mut found = Vec::new();
    match dir.is_dir() {
        true => walk(&dir, &mut found),
        false => found.push(file),
    }
    found
}

/// The source without comments, which may name anything.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// The first names after `crate::`: one, or one for each item of a group.
fn heads(rest: &str) -> Vec<&str> {
    let name = |text: &str| {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![&rest[..name(rest)]];
    };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&group[start..i]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&group[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    found
        .into_iter()
        .map(str::trim)
        .map(|item| &item[..name(item)])
        .collect()
}

/// The crates of the workspace that the code names.
fn crates(code: &str) -> Vec<&str> {
    let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
    words
        .filter(|word| {
            CRATES
                .iter()
                .any(|(name, _)| name.replace('-', "_") == *word)
        })
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn imports_run_in_one_direction() {
    let parts: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    let is_part = |name: &&str| parts.contains(name) || *name == TELEMETRY;
    for (part, allowed) in MAY_USE {
        for file in files(part) {
            let code = code(&file);
            let heads = code.split("crate::").skip(1).flat_map(heads);
            for other in heads.filter(is_part).chain(crates(&code)) {
                assert!(
                    other == *part || allowed.contains(&other),
                    "{}: {part} uses {other}",
                    file.display()
                );
            }
        }
    }
}

#[test]
fn every_layer_is_listed() {
    let lib = code(&root().join("src/lib.rs"));
    let listed: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    let parts: BTreeSet<&str> = lib
        .lines()
        .filter_map(|l| l.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(parts, listed);
}

#[test]
fn crate_depends_on_the_listed_crates() {
    let mut folders: Vec<_> = fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let listed: Vec<&str> = CRATES.iter().map(|(name, _)| *name).collect();
    assert_eq!(folders, listed);
    for (name, allowed) in CRATES {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        let used: Vec<&str> = manifest
            .lines()
            .filter(|line| line.starts_with("tasker-"))
            .filter_map(|line| line.split(['.', ' ']).next())
            .collect();
        assert_eq!(used, *allowed, "{name}");
    }
}

#[test]
fn layer_does_not_name_forbidden_crates() {
    for (part, names) in MAY_NOT_NAME {
        for file in files(part) {
            let code = code(&file);
            for name in *names {
                let named = code.match_indices(name).any(|(i, _)| {
                    !code[..i].ends_with(|c: char| c.is_alphanumeric() || c == '_')
                        && !code[i + name.len()..]
                            .starts_with(|c: char| c.is_alphanumeric() || c == '_')
                });
                assert!(!named, "{}: {part} names {name}", file.display());
            }
        }
    }
}

/// The compiler then holds the rest: a surface can name the engine's exports only, and reaches its
/// state by methods.
#[test]
fn engine_exports_no_module_and_no_field() {
    let code = code(&root().join("src/engine/mod.rs"));
    assert!(
        !code.contains("pub mod"),
        "a module of the engine is public"
    );
    let (_, rest) = code.split_once("pub struct Engine {").unwrap();
    let (fields, _) = rest.split_once('}').unwrap();
    assert!(
        !fields.contains("pub"),
        "a field of the engine is public: {fields}"
    );
}
