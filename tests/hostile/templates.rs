//! YAML that is broken, costly, or has content that no template may have.

mod attacks;
mod contents;

use prost::Message as _;
use tasker::proto::{RegisterTemplateRequest, ValidateTemplateRequest, ValidateTemplateResponse};
use tonic::Code::InvalidArgument;

use crate::{
    raw::field,
    support::random::Random,
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

/// A template whose only step also has this text.
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
async fn damaged_templates_are_refused() {
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
                // Some damage leaves another valid template, which this test skips.
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

/// The answer of `ValidateTemplate`, which must answer any input.
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

const SCHEMAS: &[(&str, &str)] = &[
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
];

#[tokio::test]
async fn invalid_or_costly_schemas_are_refused() {
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
    let wide = format!("{{properties: {{{wide}}}}}");
    let computed = [
        (deep.as_str(), "schema"),
        (&doubling, "schema"),
        (&wide, "at most 200 patterns"),
    ];
    for (text, says) in SCHEMAS.iter().copied().chain(computed) {
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
async fn every_problem_is_listed_or_counted() {
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
    // Each problem lists all the known keys, so that only some problems fit.
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
