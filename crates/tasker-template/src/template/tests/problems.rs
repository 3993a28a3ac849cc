//! One invalid template per line of the table, with the place and a part of the message.

mod steps;
mod top_level;
mod yaml;

use super::*;

/// Line, column, path, and a part of the message.
pub(super) type Expected = (u32, u32, &'static str, &'static str);

#[track_caller]
pub(super) fn check(yaml: &str, expected: &[Expected]) {
    let problems = Template::parse(yaml, "").expect_err(yaml);
    let matches = problems.len() == expected.len()
        && problems
            .iter()
            .zip(expected)
            .all(|(problem, (line, column, path, message))| {
                (problem.line, problem.column, problem.path.as_str()) == (*line, *column, *path)
                    && problem.message.contains(message)
            });
    let list: Vec<String> = problems
        .iter()
        .map(|problem| format!("{problem} [{}]", problem.path))
        .collect();
    assert!(
        matches,
        "{yaml}\nfound:\n  {}\nexpected:\n  {expected:?}",
        list.join("\n  ")
    );
}

const STEP: &str = "step_templates:\n- name: a\n  handler_class: h\n";

const SCHEMAS: &[(&str, Expected)] = &[
    (
        "  type: array\n",
        (
            3,
            9,
            "schema.type",
            "a context is a JSON object, so this schema accepts none",
        ),
    ),
    (
        "  $schema: http://example.com/x\n",
        (
            3,
            12,
            "schema.$schema",
            "expected the URI of a JSON Schema draft",
        ),
    ),
    (
        "  properties:\n    a:\n      type: strin\n",
        (5, 13, "schema.properties.a.type", "expected array, boolean"),
    ),
    (
        "  properties:\n    a b: {minLength: -1}\n",
        (
            4,
            22,
            "schema.properties[\"a b\"].minLength",
            "less than the minimum",
        ),
    ),
    (
        "  properties:\n    a: {pattern: '('}\n",
        (
            4,
            18,
            "schema.properties.a.pattern",
            "expected a regular expression",
        ),
    ),
    (
        "  allOf:\n  - {}\n  - $ref: 'http://x/y'\n",
        (5, 11, "schema.allOf[1].$ref", "nothing is fetched"),
    ),
    (
        "  requird: [a]\n",
        (
            3,
            12,
            "schema.requird",
            "unknown keyword `requird`, did you mean `required`?",
        ),
    ),
    (
        "  properties:\n    a: {type: integer, default: x}\n",
        (
            4,
            33,
            "schema.properties.a.default",
            "the default does not match: \"x\" is not of type",
        ),
    ),
];

#[test]
fn problems_of_schemas_have_places_in_the_file() {
    let with = |text: &str| format!("name: t\nschema:\n{text}{STEP}");
    for &(text, expected) in SCHEMAS {
        check(&with(text), &[expected]);
    }
    check(
        &format!("name: t\nschema: true\n{STEP}"),
        &[(
            2,
            9,
            "schema",
            "expected a mapping (a JSON Schema), found the boolean true",
        )],
    );
}

#[test]
fn template_with_several_problems_reports_all_in_order() {
    let yaml = "name: ''\nversion: one\nschema: {type: 5}\nstep_templates:\n- {name: b, handler_config: {timeout_seconds: x}}\n- {name: b, handler: h, zork: 1}\nlater: 1\n";
    check(
        yaml,
        &[
            (1, 7, "name", "empty string"),
            (2, 10, "version", "semantic version"),
            (3, 16, "schema.type", "expected array"),
            (5, 3, "step_templates[0]", "`handler_class` is missing"),
            (
                5,
                47,
                "step_templates[0].handler_config.timeout_seconds",
                "expected a number of seconds",
            ),
            (6, 10, "step_templates[1].name", "already used on line 5"),
            (6, 25, "step_templates[1].zork", "unknown key `zork`"),
            (7, 1, "later", "unknown key `later`"),
        ],
    );
}

#[test]
fn problems_before_invalid_yaml_are_reported() {
    check(
        "name: !x t\nname: u\nb: [\n",
        &[
            (1, 7, "name", "the tag `!x`"),
            (2, 1, "name", "appears twice"),
            (3, 4, "b[0]", "the YAML is invalid"),
        ],
    );
}

#[test]
fn problem_in_an_alias_has_the_place_of_its_use() {
    let yaml = "name: t\nannotations: {list: &l [1], map: &m {name: x}}\nstep_templates:\n- {name: a, handler: h, depends_on_steps: *l, backoff: *m}\n- *m\n";
    check(
        yaml,
        &[
            (
                2,
                25,
                "step_templates[0].depends_on_steps[0]",
                "expected a string",
            ),
            (2, 38, "step_templates[0].backoff.name", "unknown key"),
            (
                5,
                3,
                "step_templates[1]",
                "the key `handler_class` is missing",
            ),
        ],
    );
}

#[test]
fn columns_count_characters_not_bytes() {
    check(
        &format!("name: t\nannotations: {{'éé😀': .inf}}\n{STEP}"),
        &[(2, 22, "annotations[\"éé😀\"]", "JSON has no number")],
    );
    check(
        &format!("\u{feff}name: ''\n{STEP}"),
        &[(1, 7, "name", "empty string")],
    );
    check(
        &format!("name: t\r\nversion: x\r\n{STEP}"),
        &[(2, 10, "version", "semantic version")],
    );
}
