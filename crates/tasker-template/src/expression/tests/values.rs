//! The value of an evaluation, or the reason for its failure.

use super::*;

/// An expression, a context, and the value as JSON.
const VALUES: &[(&str, &str, &str)] = &[
    ("context.a == 1", r#"{"a": 1}"#, "true"),
    ("context.a == 1", r#"{"a": 1.0}"#, "true"),
    ("context.a > 1", r#"{"a": 1.5}"#, "true"),
    ("context.a + 1", r#"{"a": 1.0}"#, "2"),
    ("context.a + 1", r#"{"a": -1.20e2}"#, "-119"),
    ("context.a + 1", r#"{"a": 0.000e-7}"#, "1"),
    ("context.a + 1", r#"{"a": 2500e-2}"#, "26"),
    ("context.a + 1.0", r#"{"a": 250e-2}"#, "3.5"),
    (
        "context.a - 1",
        r#"{"a": 9.223372036854775807e18}"#,
        "9223372036854775806",
    ),
    (
        "context.l.map(i, i % 2)",
        r#"{"l": [1.0, 2.0, 3]}"#,
        "[1, 0, 1]",
    ),
    (
        "context.a == 9007199254740993",
        r#"{"a": 9007199254740993}"#,
        "true",
    ),
    (
        "context.a == 9007199254740992",
        r#"{"a": 9007199254740993}"#,
        "false",
    ),
    (
        "context.a > 9223372036854775807",
        r#"{"a": 18446744073709551615}"#,
        "true",
    ),
    ("has(context.a)", "{}", "false"),
    ("has(context.a)", r#"{"a": null}"#, "true"),
    ("has(context.a) && context.a.b == 1", "{}", "false"),
    ("has(context.a.b)", r#"{"a": {"c": 1}}"#, "false"),
    ("context.a == 1 || true", "{}", "true"),
    (
        "context.items.exists(i, i.n > 1)",
        r#"{"items": [{"n": 1}, {"n": 2}]}"#,
        "true",
    ),
    (
        "context.items.all(i, i.n > 1)",
        r#"{"items": [{"n": 1}, {"n": 2}]}"#,
        "false",
    ),
    (
        "context.items.exists_one(i, i > 1)",
        r#"{"items": [1, 2]}"#,
        "true",
    ),
    (
        "context.items.map(i, i * 2)",
        r#"{"items": [1, 2]}"#,
        "[2, 4]",
    ),
    (
        "context.items.filter(i, i > 1)",
        r#"{"items": [1, 2]}"#,
        "[2]",
    ),
    (
        "context.items.map(i, i > 1, i + 1)",
        r#"{"items": [1, 2]}"#,
        "[3]",
    ),
    (
        "context.m.exists(k, context.m[k] == 2)",
        r#"{"m": {"x": 1, "y": 2}}"#,
        "true",
    ),
    ("'é' in context.m", r#"{"m": {"é": 1}}"#, "true"),
    (
        "{'b': context.a, 'a': [true, null]}",
        r#"{"a": "x"}"#,
        r#"{"a": [true, null], "b": "x"}"#,
    ),
    ("string(context.a) + '!'", r#"{"a": 5}"#, r#""5!""#),
    ("int('42') + size('äö')", "{}", "44"),
    ("results.typed.n + 1", "{}", "4"),
    ("results.any == null && task.priority == 5", "{}", "true"),
    ("results['a-b'][0]", "{}", "1"),
];

#[test]
fn expressions_evaluate_to_their_values() {
    for &(source, context, expected) in VALUES {
        let expected: Value = serde_json::from_str(expected).expect(expected);
        assert_eq!(eval(source, context), Ok(expected), "{source} of {context}");
    }
}

#[test]
fn plain_path_returns_the_value_unchanged() {
    let exact = eval(
        "context.a",
        r#"{"a": {"z": 1.10, "big": 123456789012345678901234567890}}"#,
    )
    .expect("as it is");
    assert_eq!(
        exact.to_string(),
        r#"{"z":1.10,"big":123456789012345678901234567890}"#
    );
}

#[test]
fn failed_evaluation_states_the_reason() {
    for (source, context, message) in [
        ("context.plan == 'x'", "{}", "`context` has no field `plan`"),
        ("context.plan", "{}", "`context` has no field `plan`"),
        (
            "context.a.b.c == 1",
            r#"{"a": {"b": {}}}"#,
            "`context.a.b` has no field `c`",
        ),
        (
            "context.a.b == 1",
            r#"{"a": null}"#,
            "`context.a` is null, so it has no field `b`",
        ),
        (
            "context.a.b == 1",
            r#"{"a": 5}"#,
            "`context.a` is not a map, so it has no field `b`",
        ),
        (
            "results.any.x == 1",
            "{}",
            "`results.any` is null, so it has no field `x`",
        ),
        (
            "context.items.all(i, i.n == 1)",
            r#"{"items": [{}]}"#,
            "there is no field `n`",
        ),
        (
            "context.a == 1",
            r#"{"a": 123456789012345678901}"#,
            "`context.a` is 123456789012345678901, but in an expression an integer has at most 64 bits",
        ),
        (
            "context.a == 1",
            r#"{"a": 1e20}"#,
            "`context.a` is 1e+20, but in an expression an integer has at most 64 bits",
        ),
        (
            "context.a > 1",
            r#"{"a": 9007199254740992.5}"#,
            "below 2^53",
        ),
        (
            "context.a + 1 == 2",
            r#"{"a": 9223372036854775807}"#,
            "verflow",
        ),
        ("context.a / 0 == 2", r#"{"a": 1}"#, "zero"),
        (
            "context.a * 2 == 2",
            r#"{"a": 1.5}"#,
            "Unsupported binary operator",
        ),
        ("context.l[5] == 2", r#"{"l": []}"#, "out of bounds"),
        ("context.a < 'x'", r#"{"a": true}"#, "no matching overload"),
        ("1.0 / double(context.a)", r#"{"a": 0.0}"#, "not a number"),
    ] {
        let why = eval(source, context).expect_err(source);
        assert!(why.contains(message), "{source} of {context}: {why}");
    }
    let (context, none, budget) = (json!({"a": "x"}), json!({}), Budget::new());
    let why = EvaluationError::Failed("expected true or false, found \"x\"".to_owned());
    assert_eq!(
        any("context.a").holds(&Values::of_task(&context, &none, &budget)),
        Err(why)
    );
}

/// A number that the expression does not read is not checked.
#[test]
fn evaluation_parses_only_the_fields_that_it_reads() {
    let context = r#"{"plan": "pro", "id": 123456789012345678901234567890}"#;
    assert_eq!(
        eval("context.plan == 'pro' && has(context.id)", context),
        Ok(json!(true))
    );
    let expression = any("context.a.b == results.any && results['a-b'] == null");
    assert!(
        expression.reads("context") && expression.reads("results") && !expression.reads("task")
    );
    assert!(
        expression.reads_result("any")
            && expression.reads_result("a-b")
            && !expression.reads_result("typed")
    );
}
