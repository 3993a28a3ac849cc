//! Contexts against schemas: the defaults that are added and the violations.

mod budget;
mod compile;
mod generators;

use serde_json::{Value, json};

use super::*;

fn schema(value: Value) -> ContextSchema {
    ContextSchema::compile(&value).unwrap_or_else(|problems| panic!("{value}: {problems:?}"))
}

/// Each problem as `pointer: message`.
fn problems(value: Value) -> Vec<String> {
    let problems = ContextSchema::compile(&value).expect_err("invalid");
    problems
        .into_iter()
        .map(|problem| format!("{}: {}", problem.pointer, problem.message))
        .collect()
}

/// Applies the schema with a new budget.
fn apply(schema: &ContextSchema, context: &str) -> Result<Option<String>, Misfit> {
    let mut document = crate::json_text::parse(context, usize::MAX).expect(context);
    schema.apply(context, &mut document, &Budget::new())
}

fn misfit(schema: &ContextSchema, context: &str) -> Vec<Violation> {
    match apply(schema, context) {
        Err(Misfit::Violations(violations)) => violations,
        other => panic!("expected violations, found {other:?}"),
    }
}

fn violations(schema: &ContextSchema, context: &str) -> Vec<String> {
    let violations = misfit(schema, context);
    violations
        .into_iter()
        .map(|violation| format!("{}: {}", violation.pointer, violation.message))
        .collect()
}

fn registration() -> ContextSchema {
    schema(json!({
        "type": "object",
        "required": ["email", "name"],
        "properties": {
            "email": {"type": "string", "format": "email"},
            "name": {"type": "string", "minLength": 1},
            "plan": {"type": "string", "enum": ["free", "pro", "enterprise"], "default": "free"},
            "marketing_consent": {"type": "boolean", "default": false}
        }
    }))
}

#[test]
fn defaults_are_appended_to_the_object() {
    let completed = apply(
        &registration(),
        r#"{"name": "Ada", "email": "ada@example.com", "marketing_consent": true}"#,
    );
    let expected =
        r#"{"name": "Ada", "email": "ada@example.com", "marketing_consent": true,"plan":"free"}"#;
    assert_eq!(completed, Ok(Some(expected.into())));
}

#[test]
fn complete_context_keeps_its_text() {
    let complete =
        r#" {"name":"Ada","email":"ada@example.com","plan":"pro","marketing_consent":false} "#;
    assert_eq!(apply(&registration(), complete), Ok(None));
}

#[test]
fn violation_has_its_json_pointer() {
    let found = violations(
        &registration(),
        r#"{"email": "nobody", "plan": "gold", "marketing_consent": null}"#,
    );
    assert_eq!(
        found,
        [
            ": the property \"name\" is required",
            "/email: \"nobody\" is not a \"email\"",
            "/plan: \"gold\" is not one of \"free\", \"pro\" or \"enterprise\"",
            "/marketing_consent: null is not of type \"boolean\"",
        ]
    );
}

#[test]
fn violations_of_properties_and_their_parents_have_places() {
    let strict = schema(json!({
        "additionalProperties": false,
        "properties": {
            "a/b~": {"type": "object", "required": ["c", "d"]},
            "list": {"items": {"type": "integer", "maximum": 9007199254740993_u64}},
            "never": false
        }
    }));
    let found = violations(
        &strict,
        r#"{"a/b~": {}, "list": [1, "2", 9007199254740994], "x": 1, "y": 2, "never": 0}"#,
    );
    assert_eq!(
        found,
        [
            "/a~1b~0: the property \"c\" is required",
            "/a~1b~0: the property \"d\" is required",
            "/list/1: \"2\" is not of type \"integer\"",
            "/list/2: 9007199254740994 is greater than the maximum of 9007199254740993",
            "/never: the schema allows no value here",
            ": the schema allows no property \"x\", \"y\"",
        ]
    );
}

#[test]
fn violation_omits_a_large_value() {
    let text = schema(
        json!({"properties": {"a": {"enum": ["x".repeat(500)]}, "b": {"type": "null"}, "c": {"type": "null"}}}),
    );
    let context = json!({"a": "é".repeat(10_000), "b": vec![1; 10_000], "c": "short"}).to_string();
    let found = misfit(&text, &context);
    assert!(
        found
            .iter()
            .all(|violation| violation.message.chars().count() <= 201),
        "{found:?}"
    );
    assert_eq!(found[1].message, "the value is not of type \"null\"");
    assert_eq!(found[2].message, "\"short\" is not of type \"null\"");
}

#[test]
fn violations_are_capped_at_their_bound() {
    let numbers = schema(json!({"properties": {"a": {"items": {"type": "integer"}}}}));
    let context = |count: usize| json!({"a": vec!["x"; count]}).to_string();
    assert_eq!(violations(&numbers, &context(100)).len(), 100);
    let found = violations(&numbers, &context(250));
    assert_eq!(found.len(), MAX_VIOLATIONS);
    assert_eq!(found[98], "/a/98: \"x\" is not of type \"integer\"");
    assert_eq!(found[99], ": 151 more violations are not listed");
}

#[test]
fn schema_without_objects_is_refused() {
    let any = schema(json!({}));
    assert_eq!(violations(&any, "[]"), [": expected a JSON object"]);
    let nested = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    assert_eq!(apply(&any, &nested(128)), Ok(None));
}

#[test]
fn apply_keeps_digits_order_and_characters() {
    let with_default =
        schema(json!({"properties": {"z": {"default": {"n": 12345678901234567890123_u128}}}}));
    let context = r#"{"y":9007199254740993,"b":1.10,"a":1e400,"é😀":"\u00e9\u007f\u2028\"","n":[null,[null]]}"#;
    let expected = format!(
        "{},\"z\":{{\"n\":12345678901234567890123}}}}",
        &context[..context.len() - 1]
    );
    assert_eq!(apply(&with_default, context), Ok(Some(expected)));
}

#[test]
fn defaults_are_added_in_nested_objects() {
    let nested = schema(json!({
        "$defs": {
            "country": {"type": "string", "default": "DE"},
            "address": {"properties": {"country": {"$ref": "#/$defs/country"}, "lines": {"default": []}}},
            "named": {"$anchor": "named", "properties": {"label": {"default": "none"}}}
        },
        "allOf": [{"properties": {"source": {"default": "web"}}}, {"$ref": "#named"}],
        "properties": {
            "home": {"$ref": "#/$defs/address"},
            "work": {"allOf": [{"$ref": "#/$defs/address"}, {"default": {}}]},
            "items": {"items": {"properties": {"count": {"default": 1}}}},
            "pair": {"prefixItems": [{"properties": {"first": {"default": 1}}}], "items": {"properties": {"rest": {"default": 2}}}}
        }
    }));
    let completed = apply(
        &nested,
        r#"{"home":{"lines":["x"]},"items":[{},{"count":2},7],"pair":[{},{},"x"]}"#,
    );
    let expected = json!({
        "home": {"lines": ["x"], "country": "DE"},
        "items": [{"count": 1}, {"count": 2}, 7],
        "pair": [{"first": 1}, {"rest": 2}, "x"],
        "label": "none",
        "source": "web",
        "work": {"country": "DE", "lines": []}
    });
    let completed: Value =
        serde_json::from_str(&completed.expect("valid").expect("completed")).expect("JSON");
    assert_eq!(completed, expected);
}

#[test]
fn defaults_beside_ref_follow_the_rules_of_the_draft() {
    let tuple = schema(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"named": {"default": "x"}},
        "properties": {
            "list": {"items": [{"properties": {"a": {"default": 1}}}], "additionalItems": {"properties": {"b": {"default": 2}}}},
            "name": {"$ref": "#/definitions/named"}
        }
    }));
    let completed = apply(&tuple, r#"{"list":[{},{}]}"#);
    assert_eq!(
        completed,
        Ok(Some(r#"{"list":[{"a":1},{"b":2}],"name":"x"}"#.into()))
    );
}

/// The outer schema's default applies, then that of its reference, then those of `allOf`.
#[test]
fn default_of_the_outer_schema_takes_precedence() {
    let general = json!({"properties": {
        "region": {"default": "eu"},
        "limits": {"default": {"cpu": 1}, "properties": {"cpu": {"default": 1}, "disk": {"default": 1}}},
        "tags": {"items": {"properties": {"colour": {"default": "grey"}, "size": {"default": 1}}}}
    }});
    let own = json!({"properties": {
        "region": {"default": "us"},
        "limits": {"properties": {"cpu": {"default": 2}, "memory": {"default": 2}}},
        "tags": {"items": {"properties": {"colour": {"default": "red"}}}}
    }});
    let with = |parts: Value| {
        let mut schema = json!({"$defs": {"general": general}});
        for (key, part) in parts.as_object().expect("object") {
            schema[key] = part.clone();
        }
        schema
    };
    let reference = json!({"$ref": "#/$defs/general"});
    let beside = json!({"$ref": "#/$defs/general", "properties": own["properties"]});
    let completed = json!({
        "region": "us",
        "limits": {"cpu": 1, "memory": 2, "disk": 1},
        "tags": [{"colour": "red", "size": 1}]
    });
    for parts in [
        beside.clone(),
        json!({"allOf": [reference], "properties": own["properties"]}),
        json!({"allOf": [own, reference]}),
        json!({"allOf": [{"allOf": [own]}, reference]}),
        json!({"$ref": "#/$defs/own", "allOf": [reference], "$defs": {"own": own, "general": general}}),
    ] {
        let text = parts.to_string();
        let added = apply(&schema(with(parts)), r#"{"tags":[{}]}"#);
        let added = added.expect("valid").expect("completed");
        let added: Value = serde_json::from_str(&added).expect("JSON");
        assert_eq!(added, completed, "{text}");
    }
    // An object that an inner schema adds gets the defaults of the outer one.
    let inner = schema(json!({
        "allOf": [{"properties": {"a": {"default": {}, "properties": {"x": {"default": 1}}}}}],
        "properties": {"a": {"properties": {"x": {"default": 2}, "y": {"default": 2}}}}
    }));
    assert_eq!(
        apply(&inner, "{}"),
        Ok(Some(r#"{"a":{"x":2,"y":2}}"#.into()))
    );
    let property = schema(json!({
        "properties": {"a": {"$ref": "#/$defs/a", "default": "own"}, "b": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"default": "general"}}
    }));
    assert_eq!(
        apply(&property, "{}"),
        Ok(Some(r#"{"a":"own","b":"general"}"#.into()))
    );
}

#[test]
fn defaults_of_a_recursive_schema_end_with_the_context() {
    let tree = schema(json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {"properties": {"size": {"default": 0}, "left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}}}}
    }));
    let completed = apply(&tree, r#"{"left":{"right":{}}}"#);
    assert_eq!(
        completed,
        Ok(Some(
            r#"{"left":{"right":{"size":0},"size":0},"size":0}"#.into()
        ))
    );
}

#[test]
fn defaults_over_the_bound_are_refused() {
    let page = "x".repeat(10_000);
    let inflating = schema(
        json!({"properties": {"a": {"items": {"properties": {"page": {"default": page}}}}}}),
    );
    let context = |count: usize| json!({"a": vec![json!({}); count]}).to_string();
    assert!(apply(&inflating, &context(104)).is_ok());
    assert_eq!(
        violations(&inflating, &context(105)),
        [": the schema's defaults add more than 1048576 bytes"]
    );
}
