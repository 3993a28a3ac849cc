//! The cost of judging: for each keyword, a document inside the budget is judged in time, and one
//! outside is refused at once.
//!
//! Each case is a schema and a document that grows with a number. An optimised build measures at
//! the edge of the budget of an input, for which it has a quarter of a second; a test build measures
//! at the edge of a smaller one.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::*;
use crate::budget::MAX_JUDGING_STEPS;
use crate::budget::tests::{EDGE, ROUNDS, in_time};

/// The most bytes of a client's document.
const MAX_BYTES: usize = 1024 * 1024;

fn rows(count: usize, row: impl Fn(usize) -> Value) -> Value {
    Value::Array((0..count).map(row).collect())
}

fn named(count: usize) -> Value {
    Value::Object((0..count).map(|i| (format!("key{i}"), json!(i))).collect())
}

fn number(text: &str) -> Value {
    serde_json::from_str(text).expect("a number")
}

fn many(count: usize, part: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(part).collect()
}

/// The largest document of the case that is judged, and the smallest that is refused, as far as the
/// search went. Asserts that each judgement ends in time.
fn edges(schema: &Value, document: impl Fn(usize) -> Value) -> (usize, Option<usize>) {
    edges_of(EDGE, schema, document)
}

/// As [`edges`], with the whole budget of an input.
fn edges_of_input(schema: &Value, document: impl Fn(usize) -> Value) -> (usize, Option<usize>) {
    edges_of(MAX_JUDGING_STEPS, schema, document)
}

fn edges_of(
    steps: u64,
    schema: &Value,
    document: impl Fn(usize) -> Value,
) -> (usize, Option<usize>) {
    let source = schema.to_string();
    let schema = ContextSchema::compile_result(schema)
        .unwrap_or_else(|problems| panic!("{source}: {problems:?}"));
    let is_judged = |value: &Value, size: usize| {
        let budget = Budget::of(steps);
        let began = Instant::now();
        let verdict = schema.check(value, &budget);
        let what = &source[..source.len().min(60)];
        in_time(began, &budget, &format_args!("{size} for {what}"));
        if let Err(Misfit::TooCostly(error)) = verdict {
            assert!(error.needed > error.allowed, "{error}");
            return false;
        }
        true
    };
    let (mut judged, mut size) = (0, 8);
    loop {
        let value = document(size);
        if value.to_string().len() > MAX_BYTES {
            return (judged, None);
        }
        if !is_judged(&value, size) {
            break;
        }
        (judged, size) = (size, size * 2);
    }
    for _ in ROUNDS {
        let middle = usize::midpoint(judged, size);
        if is_judged(&document(middle), middle) {
            judged = middle;
        } else {
            size = middle;
        }
    }
    (judged, Some(size))
}

#[test]
fn cost_includes_each_comparison() {
    let mixed: Vec<Value> = [json!("any")]
        .into_iter()
        .chain(many(5_000, |i| json!(i)))
        .collect();
    let collide = |i: usize| number(&format!("0.1000000000000000000{i:06}"));
    let beyond = |i: usize| number(&format!("1e{}", 400 + i % 3_000));
    let objects = many(500, |i| json!({"a": [1, 2, i]}));
    assert!(
        edges(&json!({"items": {"enum": mixed}}), |n| json!(vec![
            4_999;
            n
        ]))
        .1
        .is_some()
    );
    assert!(
        edges(&json!({"items": {"enum": objects}}), |n| rows(
            n,
            |_| json!({"a": [1, 2, 499]})
        ))
        .1
        .is_some()
    );
    assert!(
        edges(&json!({"uniqueItems": true}), |n| rows(n, collide))
            .1
            .is_some()
    );
    assert!(
        edges(&json!({"uniqueItems": true}), |n| rows(n, beyond))
            .1
            .is_some()
    );
    let long = many(1_000, |i| json!(i));
    edges(&json!({"items": {"const": long.clone()}}), |n| {
        rows(n, |_| json!(long))
    });
    let (judged, over) = edges_of_input(&json!({"uniqueItems": true}), |n| {
        rows(n, |i| json!(format!("item {i}")))
    });
    assert!(judged >= 32_000 && over.is_none(), "{judged} {over:?}");
}

/// The validator computes exactly with numbers, as if the zeros of an exponent were written out.
#[test]
fn cost_includes_each_number() {
    // A test build takes the ends only, for its time.
    let lengths: &[usize] = if cfg!(debug_assertions) {
        &[7, 500]
    } else {
        &[7, 20, 100, 1_000, 4_000]
    };
    for digits in lengths {
        let zeros = digits - 6;
        let ones = "1".repeat(zeros);
        for form in [
            &|i: usize| format!("{}e{zeros}", i + 1) as String,
            &|i| format!("{}e-{zeros}", i + 1),
            &|i| format!("{ones}{i:06}"),
            &|i| format!("0.{ones}{i:06}"),
        ] as [&dyn Fn(usize) -> String; 4]
        {
            let make = |i: usize| number(&form(i));
            let mixed: Vec<Value> = [json!("any")].into_iter().chain(many(50, make)).collect();
            for schema in [
                json!({"uniqueItems": true}),
                json!({"items": {"enum": mixed}}),
                json!({"items": {"const": make(0)}}),
                json!({"items": {"minimum": make(0)}}),
                json!({"items": {"multipleOf": make(0)}}),
                json!({"items": {"type": "integer", "minimum": -5, "maximum": 5}}),
                json!({"items": {"type": "integer"}}),
                json!({"items": {"minimum": -5}}),
                json!({"items": {"multipleOf": 3}}),
                json!({"items": {"minimum": 0.5, "multipleOf": 0.01}}),
            ] {
                edges(&schema, |n| rows(n, make));
            }
        }
    }
}

#[test]
fn cost_includes_each_pattern() {
    let text = |n: usize| json!("abbab".repeat(n));
    assert!(
        edges(&json!({"pattern": "[ab]*a[ab]{200}c"}), text)
            .1
            .is_some()
    );
    assert!(
        edges(&json!({"pattern": "a[ab]{200}[ab]*$"}), text)
            .1
            .is_some()
    );
    assert!(
        edges(&json!({"format": "regex"}), |n| json!("(a|b)*".repeat(n)))
            .1
            .is_some()
    );
    let patterns: Map<String, Value> = (0..100)
        .map(|i| (format!("^k.*{i}$"), json!({"minimum": 0})))
        .collect();
    assert!(
        edges(&json!({"patternProperties": patterns}), named)
            .1
            .is_some()
    );
    edges(
        &json!({"propertyNames": {"pattern": "^[a-z]+[0-9]+$"}}),
        named,
    );
    // Typical patterns.
    for pattern in [
        "^[a-z]{2,10}$",
        r"^[^@\s]+@[^@\s]+$",
        "^[0-9a-f]{8}-[0-9a-f]{4}$",
        "^(red|green|blue)$",
    ] {
        let (judged, over) = edges_of_input(&json!({"items": {"pattern": pattern}}), |n| {
            rows(n, |_| json!("ab12cdef-ab12"))
        });
        assert!(over.is_none(), "{pattern}: {judged} {over:?}");
    }
}

#[test]
fn cost_includes_each_applicator() {
    let numbers = |n: usize| rows(n, |i| json!(i));
    let minimums = many(200, |i| json!({"minimum": i as i64 - 1_000}));
    assert!(
        edges(&json!({"items": {"allOf": minimums}}), numbers)
            .1
            .is_some()
    );
    let constants = many(200, |i| json!({"const": i}));
    assert!(
        edges(&json!({"items": {"anyOf": constants}}), |n| json!(vec![
            199;
            n
        ]))
        .1
        .is_some()
    );
    assert!(
        edges(&json!({"items": {"oneOf": constants}}), |n| json!(vec![
            199;
            n
        ]))
        .1
        .is_some()
    );
    let required = many(200, |i| json!(format!("field{i}")));
    assert!(
        edges(
            &json!({"items": {"not": {"required": required}}}),
            |n| rows(n, |_| json!({}))
        )
        .1
        .is_some()
    );
    let nested = json!({"allOf": [{"allOf": [{"anyOf": [{"patternProperties": {"^k": {"minimum": 0}}}, {"properties": {"a": true}}]}]}],
                        "unevaluatedProperties": false});
    edges(&nested, named);
    edges(
        &json!({"allOf": [{"anyOf": [{"contains": {"type": "integer"}}]}], "unevaluatedItems": false}),
        numbers,
    );
    edges(
        &json!({"contains": {"minimum": 0}, "minContains": 2}),
        numbers,
    );
    edges(
        &json!({"items": {"dependentSchemas": {"a": {"required": ["b"]}}}}),
        |n| rows(n, |i| json!({"a": i, "b": 1})),
    );
    edges(
        &json!({"items": {"if": {"minimum": 5}, "then": {"maximum": 1e9}, "else": {"maximum": 10}}}),
        numbers,
    );
}

/// Each level of a document doubles the work of `unevaluatedProperties` and `unevaluatedItems`: the
/// validator applies the schemas beside them a second time.
#[test]
fn cost_includes_each_doubling() {
    let recursive = |part: Value| json!({"$ref": "#/$defs/n", "$defs": {"n": part}});
    let objects = |n: usize| (0..n).fold(json!({}), |inner, _| json!({"c": inner}));
    let lists = |n: usize| (0..n).fold(json!([]), |inner, _| json!([inner]));
    let child = json!({"$ref": "#/$defs/n"});
    for part in [
        json!({"allOf": [{"properties": {"c": child}}], "unevaluatedProperties": false}),
        json!({"allOf": [{"unevaluatedProperties": child}], "unevaluatedProperties": false}),
        json!({"anyOf": [{"patternProperties": {"c": child}}, false], "unevaluatedProperties": false}),
    ] {
        let (judged, over) = edges(&recursive(part), objects);
        assert!(judged >= 2 && over.is_some(), "{judged} {over:?}");
    }
    for part in [
        json!({"allOf": [{"prefixItems": [child]}], "unevaluatedItems": false}),
        json!({"allOf": [{"contains": child}], "unevaluatedItems": false}),
    ] {
        let (judged, over) = edges(&recursive(part), lists);
        assert!(judged >= 2 && over.is_some(), "{judged} {over:?}");
    }
}

/// Errors hold copies of invalid values, so listing them costs more than the validity check.
#[test]
fn cost_includes_errors() {
    let required = many(150, |i| json!({"required": [format!("field{i}")]}));
    let schema = ContextSchema::compile_result(&json!({"anyOf": required})).expect("valid");
    let (began, budget) = (Instant::now(), Budget::new());
    let Err(Misfit::Violations(found)) = schema.check(&named(50_000), &budget) else {
        panic!("violations")
    };
    in_time(began, &budget, &"many names required");
    assert!(
        found[0]
            .message
            .starts_with("the document does not match its schema"),
        "{found:?}"
    );
    let schema =
        ContextSchema::compile_result(&json!({"items": {"type": "string"}})).expect("valid");
    let (began, budget) = (Instant::now(), Budget::new());
    let Err(Misfit::Violations(found)) = schema.check(&json!(vec![1; 200_000]), &budget) else {
        panic!("violations")
    };
    in_time(began, &budget, &"many errors");
    assert_eq!(found[0].pointer, "/0");
    assert!(
        found
            .last()
            .is_some_and(|last| last.message.contains("more violations")),
        "{:?}",
        found.last()
    );
}

/// An error holds the pointer of its value, so a long name costs in each error below it.
#[test]
fn cost_includes_the_pointers_of_errors() {
    let schema = json!({"additionalProperties": {"items": {"type": "string"}}});
    let schema = ContextSchema::compile(&schema).expect("valid");
    let named = |length: usize| json!({"n".repeat(length): vec![1; 20_000]});
    for (length, listed) in [(1, MAX_VIOLATIONS), (500_000, 2)] {
        let document = named(length);
        let (began, budget) = (Instant::now(), Budget::new());
        let Err(Misfit::Violations(found)) = schema.check(&document, &budget) else {
            panic!("violations")
        };
        in_time(began, &budget, &format_args!("a name of {length} bytes"));
        assert_eq!(found.len(), listed);
    }
}

#[test]
fn ordinary_documents_take_little_of_the_budget() {
    let field = |i: usize| match i % 4 {
        0 => (
            json!({"type": "string", "maxLength": 200, "pattern": "^[A-Za-z0-9 _.-]*$"}),
            json!("some text here"),
        ),
        1 => (json!({"type": "integer", "minimum": 0}), json!(i)),
        2 => (json!({"enum": ["a", "b", "c"]}), json!("b")),
        _ => (
            json!({"type": "string", "format": "date-time"}),
            json!("2026-01-31T12:00:00Z"),
        ),
    };
    let properties: Map<String, Value> = (0..50)
        .map(|i| (format!("field_{i}"), field(i).0))
        .collect();
    let row: Map<String, Value> = (0..50)
        .map(|i| (format!("field_{i}"), field(i).1))
        .collect();
    let schema = json!({"properties": {"rows": {"items": {"properties": properties, "additionalProperties": false}}}});
    let document = |n: usize| json!({"rows": vec![Value::Object(row.clone()); n]});
    let (judged, over) = edges_of_input(&schema, document);
    assert!(judged >= 512 && over.is_none(), "{judged} {over:?}");
    let schema = ContextSchema::compile(&schema).expect("valid");
    let budget = Budget::new();
    assert_eq!(schema.check(&document(800), &budget), Ok(()));
    assert!(budget.spent() < MAX_JUDGING_STEPS / 2, "{}", budget.spent());
}

/// Each visit of a schema follows its reference, which may be long.
#[test]
fn long_references_count_against_the_budget() {
    let name = "n".repeat(100_000);
    let schema = ContextSchema::compile(&json!({
        "properties": {"a": {"items": {"$ref": format!("#/$defs/{name}")}}},
        "$defs": {name: {"properties": {"x": {"default": 1}}}}
    }))
    .expect("valid");
    let text = format!(r#"{{"a":[{}]}}"#, ["{}"; 1_000].join(","));
    let mut value = serde_json::from_str(&text).expect("JSON");
    assert!(matches!(
        schema.apply(&text, &mut value, &Budget::new()),
        Err(Misfit::TooCostly(_))
    ));
}

#[test]
fn defaults_count_against_the_budget() {
    let schema = ContextSchema::compile(
        &json!({"properties": {"a": {"items": {"properties": {"x": {"default": 1}}}}}}),
    );
    let schema = schema.expect("valid");
    let text = format!(r#"{{"a":[{}]}}"#, ["{}"; 1_000].join(","));
    let mut value = serde_json::from_str(&text).expect("JSON");
    assert!(matches!(
        schema.apply(&text, &mut value, &Budget::of(2_000)),
        Err(Misfit::TooCostly(_))
    ));
    let mut value = serde_json::from_str(&text).expect("JSON");
    assert!(
        schema
            .apply(&text, &mut value, &Budget::new())
            .is_ok_and(|added| added.is_some())
    );
}
