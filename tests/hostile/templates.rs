//! YAML that is broken, expensive, or says what no template may say.

use prost::Message as _;
use tasker::proto::{RegisterTemplateRequest, ValidateTemplateRequest, ValidateTemplateResponse};
use tonic::Code::{AlreadyExists, InvalidArgument, ResourceExhausted};

use crate::{
    random::Random,
    raw::field,
    target::{GOOD, SEED, Target, fields},
};

const REGISTER: &str = "TemplateService/RegisterTemplate";
const FIXTURES: [&str; 3] = [
    SEED,
    include_str!("../fixtures/linear.yaml"),
    include_str!("../fixtures/diamond.yaml"),
];

/// A template with these lines in place of its steps.
fn with(lines: &str) -> String {
    format!("task_name: t\nversion: 1.0.0\n{lines}\n")
}

/// A template whose only step has this, too.
fn step(more: &str) -> String {
    with(&format!(
        "step_templates: [{{name: a, handler_class: h, {more}}}]"
    ))
}

/// A template with this schema, as flow YAML.
fn schema(schema: &str) -> String {
    with(&format!(
        "step_templates: [{{name: a, handler_class: h}}]\nschema: {schema}"
    ))
}

#[tokio::test]
async fn damaged_templates() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("templates");
    for (i, yaml) in FIXTURES.iter().enumerate() {
        for n in 0..180 {
            let damaged = if n < 40 {
                yaml.as_bytes()[..random.below(yaml.len())].to_vec()
            } else {
                random.damage(yaml.as_bytes())
            };
            let says = match std::str::from_utf8(&damaged) {
                Err(_) => "UTF-8",
                // Some damage leaves a template, if another one; that is not what this test is about.
                Ok(text) if is_valid(&target, text).await => continue,
                Ok(_) => "yaml:",
            };
            let case = format!("fixture {i}, damage {n}");
            target
                .refuses_bytes(case, REGISTER, field(1, &damaged), InvalidArgument, says)
                .await;
        }
    }
    target.end(350).await;
}

/// `ValidateTemplate` says so; it must answer whatever it gets.
async fn is_valid(target: &Target, yaml: &str) -> bool {
    let request = ValidateTemplateRequest { yaml: yaml.into() }.encode_to_vec();
    let answer = target
        .raw
        .call("/tasker.v1.TemplateService/ValidateTemplate", request)
        .await
        .unwrap();
    let answer = ValidateTemplateResponse::decode(&*answer).unwrap();
    assert_eq!(answer.problems.is_empty(), answer.template.is_some());
    answer.problems.is_empty()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn yaml_that_attacks_its_reader() {
    let mut target = Target::new().await;
    let bomb = |lists: usize| {
        let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..lists {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            yaml += &format!("a{i}: &a{i} [{aliases}]\n");
        }
        yaml
    };
    let steps = |n: usize| {
        let steps: String = (0..n)
            .map(|i| format!("  - {{name: s{i}, handler_class: h}}\n"))
            .collect();
        with(&format!("step_templates:\n{steps}"))
    };
    let block = (0..200)
        .map(|i| format!("{}a:\n", " ".repeat(i)))
        .collect::<String>();
    let table: Vec<(&str, String, &str)> = vec![
        ("nothing", String::new(), "empty"),
        ("a comment", "# nothing\n".into(), "empty"),
        ("white space", " \n\t\n".into(), "yaml:"),
        ("a scalar", "42".into(), "expected a mapping"),
        ("a list", "- task_name: t\n".into(), "expected a mapping"),
        ("a string", "\"task_name: t\"".into(), "expected a mapping"),
        (
            "two documents",
            format!("{GOOD}---\n{GOOD}"),
            "second document",
        ),
        (
            "an old YAML",
            format!("%YAML 1.1\n---\n{GOOD}"),
            "expected 1.2",
        ),
        (
            "a tab for indentation",
            "task_name: t\nstep_templates:\n\t- name: a\n".into(),
            "yaml:",
        ),
        ("a NUL", GOOD.replace("good", "go\0od"), "NUL"),
        (
            "an escaped NUL",
            GOOD.replace(": good", ": \"go\\0od\""),
            "NUL",
        ),
        (
            "half a surrogate pair",
            GOOD.replace(": good", ": \"\\ud800\""),
            "yaml:",
        ),
        ("a bomb of aliases", bomb(9), "with its aliases expanded"),
        (
            "a larger bomb of aliases",
            bomb(40),
            "with its aliases expanded",
        ),
        (
            "a bomb of text",
            format!(
                "a: &a {}\nb: [{}]",
                "x".repeat(100_000),
                vec!["*a"; 50].join(", ")
            ),
            "expanded",
        ),
        (
            "an alias inside itself",
            "a: &a [*a]\n".into(),
            "inside the value",
        ),
        (
            "an alias inside its mapping",
            "a: &a {b: {c: *a}}\n".into(),
            "inside the value",
        ),
        ("an alias of nothing", "a: *b\n".into(), "yaml:"),
        ("deep lists", "[".repeat(10_000), "64 levels"),
        ("deep mappings", "{a: ".repeat(10_000), "64 levels"),
        ("deep blocks", block, "64 levels"),
        ("deep dashes", "- ".repeat(10_000), "64 levels"),
        ("deep keys", "? ".repeat(10_000), "yaml:"),
        ("unclosed list", format!("{GOOD}x: [1, 2"), "yaml:"),
        ("unclosed string", format!("{GOOD}x: \"abc"), "yaml:"),
        (
            "a tag",
            GOOD.replace(": good", ": !!python/object/apply:os.system good"),
            "tag",
        ),
        (
            "a binary tag",
            GOOD.replace(": good", ": !!binary aGk="),
            "tag",
        ),
        (
            "a merge key",
            format!("x: &x {{a: 1}}\n{}", step("<<: {b: 1}")),
            "unknown key `b`",
        ),
        (
            "a key that is a list",
            format!("{GOOD}? [a, b]\n: 1\n"),
            "must be a string",
        ),
        (
            "a key that is a number",
            format!("{GOOD}1: 2\n"),
            "must be a string",
        ),
        (
            "a key that is null",
            format!("{GOOD}~: 2\n"),
            "must be a string",
        ),
        ("a key twice", format!("{GOOD}task_name: again\n"), "twice"),
        (
            "an unknown key",
            format!("{GOOD}task_nmae: x\n"),
            "unknown key `task_nmae`",
        ),
        (
            "a very long key",
            format!("{GOOD}{}: x\n", "k".repeat(900)),
            "unknown key",
        ),
        (
            "a planner that is none",
            format!("{GOOD}planner: [p]\n"),
            "planner",
        ),
        (
            "an expression that is none",
            format!("{GOOD}overrides: [{{when: '('}}]\n"),
            "expected an expression",
        ),
        (
            "an expression of no type",
            format!("{GOOD}overrides: [{{when: '1 + 1'}}]\n"),
            "true or false",
        ),
        (
            "an expression without end",
            format!("{GOOD}overrides: [{{when: '{}'}}]\n", "!".repeat(5_000)),
            "at most 2048",
        ),
        (
            "an expression too deep",
            format!(
                "{GOOD}overrides: [{{when: '{}true{}'}}]\n",
                "(".repeat(900),
                ")".repeat(900)
            ),
            "nested deeper",
        ),
        ("both spellings", format!("{GOOD}name: x\n"), "same key"),
        (
            "256 KiB and a byte",
            format!("{GOOD}#{}", "x".repeat(256 * 1024 - GOOD.len())),
            "at most 262144",
        ),
        ("5 MiB", "x".repeat(5 << 20), "at most 262144"),
        ("200 KiB of dashes", "-\n".repeat(100_000), "yaml:"),
        ("200 KiB of colons", ": ".repeat(100_000), "yaml:"),
        ("200 KiB of quotes", "'\"".repeat(100_000), "yaml:"),
        ("200 KiB of ampersands", "&a ".repeat(70_000), "yaml:"),
        ("200 KiB of exclamation marks", "!".repeat(200_000), "yaml:"),
        ("200 KiB of percent signs", "%".repeat(200_000), "yaml:"),
        ("a hundred problems", "? 1\n".repeat(500), "and "),
        ("no steps", with("step_templates: []"), "at least one step"),
        ("no list of steps", with(""), "`step_templates` is missing"),
        (
            "steps that are text",
            with("step_templates: a"),
            "a list of steps",
        ),
        (
            "a step that is text",
            with("step_templates: [a]"),
            "expected",
        ),
        ("1001 steps", steps(1_001), "at most 1000"),
        (
            "no task name",
            "version: 1.0.0\nstep_templates: [{name: a, handler_class: h}]".into(),
            "`task_name` is missing",
        ),
    ];
    for (case, yaml, says) in table {
        target
            .refuses(
                case,
                REGISTER,
                &RegisterTemplateRequest {
                    yaml,
                    deny_warnings: false,
                },
                InvalidArgument,
                says,
            )
            .await;
    }
    let huge = RegisterTemplateRequest {
        yaml: "x".repeat(17 << 20),
        deny_warnings: false,
    };
    target
        .refuses("17 MiB", REGISTER, &huge, ResourceExhausted, "16777216")
        .await;
    let huge = ValidateTemplateRequest {
        yaml: "x".repeat(17 << 20),
    };
    target
        .refuses(
            "17 MiB",
            "TemplateService/ValidateTemplate",
            &huge,
            ResourceExhausted,
            "16777216",
        )
        .await;
    let long = ValidateTemplateRequest {
        yaml: "x".repeat(5 << 20),
    };
    target
        .refuses(
            "5 MiB",
            "TemplateService/ValidateTemplate",
            &long,
            InvalidArgument,
            "at most 262144",
        )
        .await;
    let other = RegisterTemplateRequest {
        yaml: GOOD.replace("name: a", "name: b"),
        deny_warnings: false,
    };
    target
        .refuses(
            "a taken version",
            REGISTER,
            &other,
            AlreadyExists,
            "raise `version`",
        )
        .await;
    target.end(50).await;
}

#[tokio::test]
async fn templates_that_say_what_none_may_say() {
    let mut target = Target::new().await;
    let named = |text: &str| GOOD.replace("task_name: good", &format!("task_name: {text}"));
    let mut table: Vec<(String, &str)> = vec![
        (named("\"\""), "empty string"),
        (named("[a]"), "expected a string"),
        (named("{a: b}"), "expected a string"),
        (named("7"), "in quotes"),
        (named("true"), "in quotes"),
        (named("null"), "expected a string"),
        (named(&"n".repeat(256)), "at most 255"),
        (named("\"a\\nb\""), "control characters"),
        (named("\" a\""), "white space"),
        (step("depends_on_steps: [b]"), "b"),
        (step("depends_on_steps: [a]"), "a"),
        (step("depends_on_steps: [[a]]"), "expected"),
        (step("depends_on_steps: {a: b}"), "expected"),
        (step("depends_on_steps: [1]"), "expected"),
        (step("name: b"), "twice"),
        (step("default_retryable: maybe"), "true or false"),
        (step("handler_config: []"), "a mapping"),
        (step("handler_config: {service: 7}"), "service"),
        (step("handler_config: {service: ''}"), "service"),
        (
            step(&format!("handler_config: {{x: {}}}", "y".repeat(70_000))),
            "at most 65536",
        ),
        (
            step(&format!("annotations: {{x: {}}}", "y".repeat(17_000))),
            "at most 16384",
        ),
        (step("overrides: []"), "yaml:"),
        (
            with("step_templates: [{name: a/b, handler_class: h}]"),
            "`/`",
        ),
        (
            with("step_templates: [{name: a, handler_class: h}, {name: a, handler_class: h}]"),
            "a",
        ),
        (
            with("step_templates: [{handler_class: h}]"),
            "`name` is missing",
        ),
        (
            with("step_templates: [{name: a}]"),
            "`handler_class` is missing",
        ),
        (
            with(
                "step_templates: [{name: a, handler_class: h, depends_on_steps: [c]}, {name: b, handler_class: h, \
                 depends_on_steps: [a]}, {name: c, handler_class: h, depends_on_steps: [b]}]",
            ),
            "cycle",
        ),
    ];
    for version in [
        "1",
        "1.2",
        "v1.0.0",
        "1.0.0.0",
        "01.0.0",
        "'-1.0.0'",
        "''",
        "latest",
        "99999999999999999999.0.0",
    ] {
        table.push((GOOD.replace("1.0.0", version), "yaml:"));
    }
    for limit in [
        "0",
        "-1",
        "101",
        "2147483648",
        "18446744073709551616",
        "1.5",
        "1e2",
        "'3'",
        "[]",
    ] {
        table.push((
            step(&format!("default_retry_limit: {limit}")),
            "a whole number from 1 to 100",
        ));
    }
    for number in [".nan", ".inf", "-.Inf"] {
        table.push((
            step(&format!("default_retry_limit: {number}")),
            "expected a finite number",
        ));
    }
    for time in [
        "0", "-1", "0.0001", "604801", "1e300", ".nan", ".inf", "-.inf", "'30'", "[]", "{}",
    ] {
        table.push((
            step(&format!("handler_config: {{timeout_seconds: {time}}}")),
            "timeout_seconds",
        ));
    }
    for backoff in [
        "{base_seconds: -1}",
        "{multiplier: .inf}",
        "{max_seconds: .nan}",
        "{jitter: 2}",
        "{x: 1}",
        "7",
    ] {
        table.push((step(&format!("backoff: {backoff}")), "backoff"));
    }
    for (yaml, says) in table {
        let case = format!("{yaml:.200}");
        target
            .refuses(
                case,
                REGISTER,
                &RegisterTemplateRequest {
                    yaml,
                    deny_warnings: false,
                },
                InvalidArgument,
                says,
            )
            .await;
    }
    target.end(60).await;
}

#[tokio::test]
async fn schemas_that_are_none_or_too_much() {
    let mut target = Target::new().await;
    let wide = (0..300)
        .map(|i| format!("p{i}: {{pattern: a}}"))
        .collect::<Vec<_>>()
        .join(", ");
    let deep = format!("{}{{}}{}", "{allOf: [".repeat(25), "]}".repeat(25));
    let doubling: Vec<String> = (0..30)
        .map(|i| {
            format!("d{i}: {{properties: {{a: {{$ref: '#/$defs/d{n}'}}, b: {{$ref: '#/$defs/d{n}'}}}}}}", n = i + 1)
        })
        .collect();
    let doubling = format!(
        "{{$ref: '#/$defs/d0', $defs: {{{}, d30: {{}}}}}}",
        doubling.join(", ")
    );
    let schemas: Vec<(&str, &str)> = vec![
        ("7", "a JSON Schema"),
        ("[]", "a JSON Schema"),
        ("text", "a JSON Schema"),
        ("{type: strng}", "schema"),
        ("{type: 7}", "schema"),
        ("{type: []}", "schema"),
        ("{required: email}", "schema"),
        ("{required: [1]}", "schema"),
        ("{properties: []}", "schema"),
        ("{properties: {a: 7}}", "schema"),
        ("{minLength: -1}", "schema"),
        ("{maxItems: 1.5}", "schema"),
        ("{multipleOf: 0}", "schema"),
        ("{enum: free}", "schema"),
        ("{typ: object}", "typ"),
        ("{pattern: '('}", "schema"),
        ("{pattern: '(?=a)b'}", "schema"),
        ("{pattern: '(a)\\1'}", "schema"),
        ("{pattern: '((a{1000}){1000}){1000}'}", "schema"),
        ("{patternProperties: {'[': {}}}", "schema"),
        ("{$ref: '#/$defs/none'}", "schema"),
        ("{$ref: 'http://127.0.0.1:1/schema.json'}", "schema"),
        (
            "{$ref: 'https://json-schema.org/draft/2020-12/schema#/x'}",
            "schema",
        ),
        ("{$ref: 'file:///etc/passwd'}", "schema"),
        ("{$ref: '../../etc/passwd'}", "schema"),
        ("{$ref: '#'}", "schema"),
        ("{allOf: [{$ref: '#'}]}", "schema"),
        ("{not: {anyOf: [{$ref: '#'}, {$ref: '#'}]}}", "schema"),
        ("{$schema: 'http://example.com/mine'}", "schema"),
        ("{$schema: 7}", "schema"),
        ("{properties: {a: {type: string, default: 7}}}", "default"),
        ("{properties: {a: {enum: [x], default: y}}}", "default"),
        (&deep, "schema"),
        (&doubling, "schema"),
    ];
    let wide = format!("{{properties: {{{wide}}}}}");
    for (text, says) in schemas
        .into_iter()
        .chain([(wide.as_str(), "at most 200 patterns")])
    {
        let request = RegisterTemplateRequest {
            yaml: schema(text),
            deny_warnings: false,
        };
        target
            .refuses(
                format!("{text:.150}"),
                REGISTER,
                &request,
                InvalidArgument,
                says,
            )
            .await;
    }
    target.end(34).await;
}

#[tokio::test]
async fn every_problem_is_named_or_counted() {
    let mut target = Target::new().await;
    let keys: String = (0..90)
        .map(|i| format!("key_{i}: {}\n", "x".repeat(100)))
        .collect();
    let request = RegisterTemplateRequest {
        yaml: format!("{GOOD}{keys}"),
        deny_warnings: false,
    }
    .encode_to_vec();
    let status = target
        .raw
        .call(&format!("/tasker.v1.{REGISTER}"), request)
        .await
        .unwrap_err();
    let named = fields(&status);
    // Each of them names all the keys there are, so that only some fit.
    assert!(named.len() > 8, "{named:?}");
    assert!(
        named[..named.len() - 1]
            .iter()
            .all(|f| f.starts_with("yaml:")),
        "{named:?}"
    );
    target
        .check(
            "90 problems",
            Err::<(), _>(status),
            InvalidArgument,
            " more",
        )
        .await;
    target.end(1).await;
}
