//! Problems of the YAML itself, whatever its content.

use super::{Expected, STEP, check};

const YAML: &[(&str, Expected)] = &[
    (
        "name: u\n",
        (2, 1, "name", "the key appears twice in the same mapping"),
    ),
    (
        "description: !!str x\n",
        (2, 14, "description", "the tag `!!str` is not allowed"),
    ),
    (
        "annotations: !x {}\n",
        (2, 14, "annotations", "the tag `!x` is not allowed"),
    ),
    (
        "annotations: {a: !<tag:x> 1}\n",
        (2, 18, "annotations.a", "the tag `!<tag:x>` is not allowed"),
    ),
    (
        "annotations: {1: x}\n",
        (
            2,
            15,
            "annotations",
            "a key must be a string, but this is the number 1",
        ),
    ),
    (
        "annotations: {true: x}\n",
        (
            2,
            15,
            "annotations",
            "a key must be a string, but this is the boolean true",
        ),
    ),
    (
        "annotations: {~: x}\n",
        (
            2,
            15,
            "annotations",
            "a key must be a string, but this is nothing (null)",
        ),
    ),
    (
        "annotations: {[a]: x}\n",
        (
            2,
            15,
            "annotations",
            "a key must be a string, but this is a list",
        ),
    ),
    (
        "annotations: {? {a: b} : x}\n",
        (
            2,
            17,
            "annotations",
            "a key must be a string, but this is a mapping",
        ),
    ),
    (
        "annotations: &a {<<: x}\n",
        (
            2,
            22,
            "annotations[\"<<\"]",
            "expected a mapping to merge, or a list of mappings, found the string \"x\"",
        ),
    ),
    (
        "annotations: {a: .inf}\n",
        (2, 18, "annotations.a", "JSON has no number .inf"),
    ),
    (
        "annotations: {a: [1, .NaN]}\n",
        (2, 22, "annotations.a[1]", "JSON has no number .NaN"),
    ),
    (
        "annotations: {a: 1e9999}\n",
        (
            2,
            18,
            "annotations.a",
            "the number has more than 4096 digits",
        ),
    ),
    (
        "annotations: {a: \"x\\0\"}\n",
        (
            2,
            18,
            "annotations.a",
            "a string must not contain the NUL character",
        ),
    ),
    (
        "annotations: {\"x\\0\": 1}\n",
        (
            2,
            15,
            "annotations",
            "a string must not contain the NUL character",
        ),
    ),
    (
        "annotations: {a: &a [*a]}\n",
        (
            2,
            22,
            "annotations.a[0]",
            "this alias is inside the value that it refers to",
        ),
    ),
    (
        "annotations: {a: *b}\n",
        (2, 18, "annotations.a", "the YAML is invalid: "),
    ),
    (
        "annotations: {a: [}\n",
        (2, 18, "annotations.a[0]", "the YAML is invalid: "),
    ),
    (
        "description: \"x\n",
        (2, 14, "description", "the YAML is invalid: "),
    ),
    ("  x: y\n", (2, 4, "", "the YAML is invalid: ")),
    (
        "description: x\0y\n",
        (2, 15, "", "the file contains a NUL character"),
    ),
];

#[test]
fn invalid_yaml_is_refused_with_its_place() {
    let with = |text: &str| format!("name: t\n{text}{STEP}");
    for &(text, expected) in YAML {
        check(&with(text), &[expected]);
    }
}

#[test]
fn other_yaml_version_or_second_document_is_refused_with_its_place() {
    let template = format!("name: t\n{STEP}");
    for (yaml, expected) in [
        (
            format!("%YAML 1.1\n---\n{template}"),
            (2, 1, "", "the file declares YAML 1.1; expected 1.2"),
        ),
        (
            template.clone() + "---\nname: u\n",
            (5, 1, "", "a second document begins here"),
        ),
        (
            template.clone() + "...\n---\n",
            (6, 1, "", "a second document begins here"),
        ),
    ] {
        check(&yaml, &[expected]);
    }
}
