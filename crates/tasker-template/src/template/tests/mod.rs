//! Valid and invalid templates as authors write them.

mod adapting;
mod bounds;
mod environments;
mod problems;
mod rails;
mod refusals;
mod spellings;

use super::*;
use crate::backoff::Backoff;
use crate::budget::Budget;
use crate::limits::*;
use crate::schema::Misfit;
use crate::step_index::StepIndex;
use serde_json::json;

const REGISTRATION: &str = include_str!("../../../../../tests/fixtures/user_registration.yaml");
const LINEAR: &str = include_str!("../../../../../tests/fixtures/linear.yaml");
const DIAMOND: &str = include_str!("../../../../../tests/fixtures/diamond.yaml");

fn at(index: usize) -> StepIndex {
    StepIndex::try_from(index).expect("a step")
}

fn parse(yaml: &str) -> Template {
    Template::parse(yaml, "").unwrap_or_else(|problems| panic!("{yaml}\n{problems:#?}"))
}

/// A template with one step, to which `more` adds keys.
fn one_step(more: &str) -> String {
    format!("task_name: t\nstep_templates:\n- name: a\n  handler_class: h\n{more}")
}

#[test]
fn registration_template_loads_verbatim() {
    let template = parse(REGISTRATION);
    assert_eq!(template.namespace, "user_management");
    assert_eq!(template.task_name, "user_registration");
    assert_eq!(template.version, semver::Version::new(2, 6, 0));
    assert_eq!(
        template.description,
        "Orchestrated user registration across microservices"
    );
    assert_eq!(template.steps.len(), 5);

    let mail = &template.steps[3];
    assert_eq!(mail.name, "send_welcome_sequence");
    assert_eq!(
        mail.handler,
        "UserManagement::StepHandlers::SendWelcomeSequenceHandler"
    );
    assert_eq!(mail.service, "notification_service");
    assert_eq!(mail.depends_on, [1, 2]);
    assert_eq!((mail.retryable, mail.retry_limit), (true, 5));
    assert_eq!(mail.timeout, Duration::from_secs(15));
    assert_eq!(mail.backoff, Backoff::default());
    assert_eq!(
        Value::Object(mail.handler_config.clone()),
        json!({"timeout_seconds": 15, "service": "notification_service"})
    );

    let graph = Graph::of(&template);
    assert_eq!(graph.roots(), [0]);
    assert_eq!(graph.ancestors(at(4)), [0, 1, 2, 3]);
}

#[test]
fn registration_schema_completes_and_validates_a_context() {
    let template = parse(REGISTRATION);
    let schema = template.schema.as_ref().expect("schema");
    let schema = crate::schema::ContextSchema::compile(schema).expect("valid");
    let apply = |text: &str| {
        schema.apply(
            text,
            &mut serde_json::from_str(text).expect("JSON"),
            &Budget::new(),
        )
    };
    let completed = apply(r#"{"email":"ada@example.com","name":"Ada"}"#).expect("fits");
    let expected =
        r#"{"email":"ada@example.com","name":"Ada","plan":"free","marketing_consent":false}"#;
    assert_eq!(completed.as_deref(), Some(expected));
    let Err(Misfit::Violations(violations)) = apply(r#"{"email":"nobody","plan":"gold"}"#) else {
        panic!("three violations");
    };
    let pointers: Vec<&str> = violations
        .iter()
        .map(|violation| violation.pointer.as_str())
        .collect();
    assert_eq!(pointers, ["", "/email", "/plan"]);
}

#[test]
fn golden_shapes_load() {
    let linear = parse(LINEAR);
    assert_eq!(linear.steps.len(), 6);
    assert_eq!(Graph::of(&linear).ancestors(at(5)), [0, 1, 2, 3, 4]);
    assert_eq!(linear.steps[2].handler_config["failures"], json!(1));
    assert_eq!(
        linear.steps[2].service, "golden.flaky",
        "the handler's name stands in for the service"
    );

    let diamond = parse(DIAMOND);
    let graph = Graph::of(&diamond);
    assert_eq!(graph.children(at(0)), [1, 2]);
    assert_eq!(graph.parents(at(5)), [3, 4]);
    assert_eq!(graph.ancestors(at(6)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(diamond.steps[2].timeout, Duration::from_secs(1));
}

#[test]
fn omitted_keys_have_defaults() {
    let template = parse(&one_step(""));
    assert_eq!(
        (
            template.namespace.as_str(),
            template.version.to_string().as_str()
        ),
        ("default", "0.1.0")
    );
    assert_eq!(
        (
            template.description.as_str(),
            template.schema,
            template.annotations.len()
        ),
        ("", None, 0)
    );
    let step = &template.steps[0];
    assert_eq!(
        (step.retryable, step.retry_limit, step.timeout),
        (true, 3, DEFAULT_TIMEOUT)
    );
    assert_eq!(
        (step.service.as_str(), step.backoff),
        ("h", Backoff::default())
    );
    assert!(
        step.handler_config.is_empty() && step.annotations.is_empty() && step.depends_on.is_empty()
    );
}

#[test]
fn aliases_of_keys_are_equivalent() {
    let template = parse(
        "name: t\nnamespace_name: n\nstep_templates:\n- {name: a, handler: h}\n- {name: b, handler: h, depends_on_step: a}\n",
    );
    assert_eq!(
        (template.task_name.as_str(), template.namespace.as_str()),
        ("t", "n")
    );
    assert_eq!(template.steps[1].depends_on, [0]);
}

#[test]
fn every_key_is_read() {
    let template = parse(&one_step(
        "  description: does it\n  default_retryable: true\n  default_retry_limit: 7\n  depends_on_steps: []\n  \
         backoff: {base_seconds: 0.5, multiplier: 3, max_seconds: 60, jitter: 0}\n  \
         handler_config: {timeout_seconds: 1.5, service: s, url: 'http://x', big: 9007199254740993, exact: 1.10, n: null}\n  \
         annotations: {owner: team}\nannotations: {tier: 1}\n",
    ));
    let step = &template.steps[0];
    assert_eq!(
        (
            step.description.as_str(),
            step.retry_limit,
            step.service.as_str()
        ),
        ("does it", 7, "s")
    );
    assert_eq!(step.timeout, Duration::from_millis(1500));
    let backoff = Backoff {
        base_seconds: 0.5,
        multiplier: 3.0,
        max_seconds: 60.0,
        jitter: 0.0,
    };
    assert_eq!(step.backoff, backoff);
    let config = r#"{"timeout_seconds":1.5,"service":"s","url":"http://x","big":9007199254740993,"exact":1.10,"n":null}"#;
    assert_eq!(
        serde_json::to_string(&step.handler_config).expect("JSON"),
        config
    );
    assert_eq!(step.annotations["owner"], json!("team"));
    assert_eq!(template.annotations["tier"], json!(1));
}

#[test]
fn step_that_is_not_retryable_has_one_attempt() {
    let step = parse(&one_step(
        "  default_retryable: false\n  default_retry_limit: 5\n",
    ))
    .steps
    .remove(0);
    assert_eq!((step.retryable, step.retry_limit), (false, 1));
}

#[test]
fn dependencies_before_their_step_are_resolved_and_sorted() {
    let template = parse(
        "name: t\nstep_templates:\n- {name: c, handler: h, depends_on_steps: [b, a]}\n- {name: a, handler: h}\n- {name: b, handler: h}\n",
    );
    assert_eq!(template.steps[0].depends_on, [1, 2]);
}

#[test]
fn anchors_and_aliases_expand_to_their_values() {
    let template = parse(
        "name: t\nstep_templates:\n- &a {name: a, handler: h, handler_config: &c {retries: [1, &x 2]}}\n\
         - {name: b, handler: h, handler_config: *c, depends_on_steps: [a]}\n",
    );
    assert_eq!(
        template.steps[0].handler_config,
        template.steps[1].handler_config
    );
}

#[test]
fn quoted_scalars_stay_strings() {
    let template = parse(&one_step(
        "  handler_config:\n    quoted: \"1\"\n    yes: yes\n    norway: no\n    octal: 0o17\n    zeros: 007\n    block: |\n      a\n       b\n    folded: >-\n      a\n      b\n    date: 2026-01-31\n    escape: \"\\u00e9\\t\"\n    tilde: ~\n",
    ));
    let expected = json!({
        "quoted": "1", "yes": "yes", "norway": "no", "octal": 15, "zeros": 7, "block": "a\n b\n", "folded": "a b",
        "date": "2026-01-31", "escape": "é\t", "tilde": null
    });
    assert_eq!(
        Value::Object(template.steps[0].handler_config.clone()),
        expected
    );
}

#[test]
fn byte_order_mark_and_line_ends_are_ignored() {
    let text = one_step("  description: é\n");
    let expected = parse(&text);
    assert_eq!(parse(&text.replace('\n', "\r\n")), expected);
    assert_eq!(parse(&format!("\u{feff}{text}")), expected);
    assert_eq!(parse(&format!("---\n{text}...\n")), expected);
    assert_eq!(parse(&format!("%YAML 1.2\n---\n{text}")), expected);
    assert_eq!(parse(&format!("# c\n{text}# c\n")), expected);
}
