//! Problems of the keys of the whole template.

use super::{Expected, STEP, check};

const TOP_LEVEL: &[(&str, Expected)] = &[
    ("", (1, 1, "", "the key `task_name` is missing")),
    (
        "task_name: ''\n",
        (1, 12, "task_name", "expected a name, found an empty string"),
    ),
    (
        "task_name: 5\n",
        (
            1,
            12,
            "task_name",
            "expected a string (in quotes), found the number 5",
        ),
    ),
    (
        "task_name:\n",
        (
            1,
            10,
            "task_name",
            "expected a string, found nothing (null)",
        ),
    ),
    (
        "task_name: [t]\n",
        (1, 12, "task_name", "expected a string, found a list"),
    ),
    (
        "task_name: \"a\\nb\"\n",
        (1, 12, "task_name", "must not contain control characters"),
    ),
    (
        "task_name: ' a'\n",
        (
            1,
            12,
            "task_name",
            "must not contain white space, found U+0020",
        ),
    ),
    (
        "task_name: t\nname: u\n",
        (2, 1, "name", "`task_name` and `name` are the same key"),
    ),
    (
        "name: u\ntask_name: t\n",
        (2, 1, "task_name", "`task_name` and `name` are the same key"),
    ),
    (
        "name: t\nnamespace: n\nnamespace_name: n\n",
        (3, 1, "namespace_name", "are the same key"),
    ),
    (
        "name: t\nnamespace: ''\n",
        (2, 12, "namespace", "found an empty string"),
    ),
    (
        "name: t\ntask_nmae: t\n",
        (
            2,
            1,
            "task_nmae",
            "unknown key `task_nmae`, did you mean `task_name`?",
        ),
    ),
    (
        "name: t\nowner: me\n",
        (
            2,
            1,
            "owner",
            "unknown key `owner`; expected one of task_name, name, namespace",
        ),
    ),
    (
        "name: t\nversion: 1.0\n",
        (
            2,
            10,
            "version",
            "expected a string (in quotes), found the number 1.0",
        ),
    ),
    (
        "name: t\nversion: v1.0.0\n",
        (
            2,
            10,
            "version",
            "expected a semantic version such as 1.4.0, found \"v1.0.0\"",
        ),
    ),
    (
        "name: t\nversion: '1.0'\n",
        (2, 10, "version", "expected a semantic version"),
    ),
    (
        "name: t\ndescription: {a: b}\n",
        (2, 14, "description", "expected a string, found a mapping"),
    ),
    (
        "name: t\nannotations: [1]\n",
        (2, 14, "annotations", "expected a mapping, found a list"),
    ),
];

#[test]
fn problems_of_the_top_level_have_places_and_messages() {
    let with = |text: &str| format!("{text}{STEP}");
    for &(text, expected) in TOP_LEVEL {
        check(&with(text), &[expected]);
    }
}

const WHOLE_FILES: &[(&str, Expected)] = &[
    (
        "name: t\n",
        (1, 1, "", "the key `step_templates` is missing"),
    ),
    (
        "name: t\nstep_templates: {}\n",
        (
            2,
            17,
            "step_templates",
            "expected a list of steps, found a mapping",
        ),
    ),
    (
        "name: t\nstep_templates:\n",
        (
            2,
            15,
            "step_templates",
            "expected a list of steps, found nothing",
        ),
    ),
    (
        "- a\n",
        (
            1,
            1,
            "",
            "expected a mapping with `task_name` and `step_templates`, found a list",
        ),
    ),
    (
        "just words\n",
        (1, 1, "", "found the string \"just words\""),
    ),
    ("", (1, 1, "", "the file is empty")),
    ("# nothing\n", (1, 1, "", "the file is empty")),
    ("---\n", (1, 4, "", "found nothing (null)")),
];

#[test]
fn file_that_is_not_a_template_is_refused_with_its_place() {
    for &(yaml, expected) in WHOLE_FILES {
        check(yaml, &[expected]);
    }
}
