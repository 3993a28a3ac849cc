//! Imports run one way: cli -> http -> grpc -> engine -> store -> domain; the SDK and the client
//! import the protocol alone.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each part of `src/`, and the parts that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("proto", &[]),
    ("json", &["domain", "proto"]),
    ("postgres", &[]),
    ("store", &["domain"]),
    ("engine", &["domain", "store", "telemetry"]),
    (
        "http",
        &["domain", "engine", "grpc", "json", "proto", "store"],
    ),
    ("grpc", &["domain", "engine", "proto", "store"]),
    (
        "server",
        &["engine", "grpc", "http", "proto", "store", "telemetry"],
    ),
    ("telemetry", &[]),
    ("client", &["proto"]),
    ("worker", &["proto", "telemetry"]),
    (
        "bench",
        &["client", "domain", "postgres", "proto", "store", "worker"],
    ),
    (
        "cli",
        &[
            "bench",
            "client",
            "domain",
            "json",
            "postgres",
            "proto",
            "server",
            "store",
            "telemetry",
        ],
    ),
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
    ("worker", &["tokio_postgres", "axum", "clap"]),
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
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
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

#[test]
fn imports_run_in_one_direction() {
    let parts: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    for (part, allowed) in MAY_USE {
        for file in files(part) {
            let code = code(&file);
            let used = code.split("crate::").skip(1).flat_map(heads);
            for other in used.filter(|u| parts.contains(u)) {
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
    let lib = code(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    let listed: BTreeSet<&str> = MAY_USE.iter().map(|(part, _)| *part).collect();
    let parts: BTreeSet<&str> = lib
        .lines()
        .filter_map(|l| l.trim().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(parts, listed);
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
