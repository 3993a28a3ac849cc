use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

fn schema(value: Value) -> ContextSchema {
    ContextSchema::compile(&value).unwrap_or_else(|problems| panic!("{value}: {problems:?}"))
}

/// Each problem as `pointer: message`.
fn problems(value: Value) -> Vec<String> {
    let problems = ContextSchema::compile(&value).expect_err("invalid");
    problems.into_iter().map(|problem| format!("{}: {}", problem.pointer, problem.message)).collect()
}

fn violations(schema: &ContextSchema, context: &str) -> Vec<String> {
    let violations = schema.apply(context).expect_err("violations");
    violations.into_iter().map(|violation| format!("{}: {}", violation.pointer, violation.message)).collect()
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
fn defaults_are_added_at_the_end() {
    let completed = registration().apply(r#"{"name": "Ada", "email": "ada@example.com", "marketing_consent": true}"#);
    let expected = r#"{"name":"Ada","email":"ada@example.com","marketing_consent":true,"plan":"free"}"#;
    assert_eq!(completed, Ok(Some(expected.into())));
}

#[test]
fn a_complete_context_stays_the_clients_own_text() {
    let complete = r#" {"name":"Ada","email":"ada@example.com","plan":"pro","marketing_consent":false} "#;
    assert_eq!(registration().apply(complete), Ok(None));
}

#[test]
fn each_violation_has_its_pointer() {
    let found = violations(&registration(), r#"{"email": "nobody", "plan": "gold", "marketing_consent": null}"#);
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
fn violations_inside_and_beside_properties_are_placed() {
    let strict = schema(json!({
        "additionalProperties": false,
        "properties": {
            "a/b~": {"type": "object", "required": ["c", "d"]},
            "list": {"items": {"type": "integer", "maximum": 9007199254740993_u64}},
            "never": false
        }
    }));
    let found = violations(&strict, r#"{"a/b~": {}, "list": [1, "2", 9007199254740994], "x": 1, "y": 2, "never": 0}"#);
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
fn a_violation_repeats_no_large_value() {
    let text =
        schema(json!({"properties": {"a": {"enum": ["x".repeat(500)]}, "b": {"type": "null"}, "c": {"type": "null"}}}));
    let context = json!({"a": "é".repeat(10_000), "b": vec![1; 10_000], "c": "short"}).to_string();
    let found = text.apply(&context).expect_err("violations");
    assert!(found.iter().all(|violation| violation.message.chars().count() <= 201), "{found:?}");
    assert_eq!(found[1].message, "the value is not of type \"null\"");
    assert_eq!(found[2].message, "\"short\" is not of type \"null\"");
}

#[test]
fn violations_are_capped() {
    let numbers = schema(json!({"properties": {"a": {"items": {"type": "integer"}}}}));
    let context = |count: usize| json!({"a": vec!["x"; count]}).to_string();
    assert_eq!(violations(&numbers, &context(100)).len(), 100);
    let found = violations(&numbers, &context(250));
    assert_eq!(found.len(), MAX_VIOLATIONS);
    assert_eq!(found[98], "/a/98: \"x\" is not of type \"integer\"");
    assert_eq!(found[99], ": 151 more violations are not listed");
}

#[test]
fn a_context_is_an_object_in_valid_json() {
    let any = schema(json!({}));
    assert_eq!(violations(&any, "[]"), [": expected a JSON object"]);
    assert!(violations(&any, "{\"a\":}")[0].starts_with(": line 1, column 6 (byte 5): expected a value"));
    assert!(violations(&any, "")[0].contains("expected a value"));
    assert!(violations(&any, r#"{"a":"\u0000"}"#)[0].contains("cannot be stored"));
    let nested = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
    assert_eq!(any.apply(&nested(128)), Ok(None));
    assert!(violations(&any, &nested(129))[0].contains("nested deeper than 128 levels"));
}

#[test]
fn digits_order_and_characters_survive() {
    let with_default =
        schema(json!({"properties": {"z": {"default": {"n": 12345678901234567890123_u128, "f": 1.50}}}}));
    let context = r#"{"y":9007199254740993,"b":1.10,"a":1e+400,"é😀":"\u007f\u2028\"","n":[null,[null]]}"#;
    let completed = with_default.apply(context).expect("valid").expect("completed");
    assert!(completed.starts_with(r#"{"y":9007199254740993,"b":1.10,"a":1e+400,"é😀":""#), "{completed}");
    assert!(completed.contains(r#""n":[null,[null]]"#), "{completed}");
    assert!(completed.ends_with(r#","z":{"n":12345678901234567890123,"f":1.5}}"#), "{completed}");
}

#[test]
fn defaults_reach_nested_places() {
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
    let completed = nested.apply(r#"{"home":{"lines":["x"]},"items":[{},{"count":2},7],"pair":[{},{},"x"]}"#);
    let expected = json!({
        "home": {"lines": ["x"], "country": "DE"},
        "items": [{"count": 1}, {"count": 2}, 7],
        "pair": [{"first": 1}, {"rest": 2}, "x"],
        "label": "none",
        "source": "web",
        "work": {"country": "DE", "lines": []}
    });
    let completed: Value = serde_json::from_str(&completed.expect("valid").expect("completed")).expect("JSON");
    assert_eq!(completed, expected);
}

#[test]
fn defaults_of_older_drafts_follow_their_rules() {
    let tuple = schema(json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "definitions": {"named": {"default": "x"}},
        "properties": {
            "list": {"items": [{"properties": {"a": {"default": 1}}}], "additionalItems": {"properties": {"b": {"default": 2}}}},
            "name": {"$ref": "#/definitions/named"}
        }
    }));
    let completed = tuple.apply(r#"{"list":[{},{}]}"#);
    assert_eq!(completed, Ok(Some(r#"{"list":[{"a":1},{"b":2}],"name":"x"}"#.into())));
}

#[test]
fn defaults_follow_recursion_only_as_deep_as_the_context() {
    let tree = schema(json!({
        "$ref": "#/$defs/node",
        "$defs": {"node": {"properties": {"size": {"default": 0}, "left": {"$ref": "#/$defs/node"}, "right": {"$ref": "#/$defs/node"}}}}
    }));
    let completed = tree.apply(r#"{"left":{"right":{}}}"#);
    assert_eq!(completed, Ok(Some(r#"{"left":{"right":{"size":0},"size":0},"size":0}"#.into())));
}

#[test]
fn a_default_that_does_not_fit_is_a_problem() {
    let found = problems(json!({
        "$defs": {"plan": {"enum": ["free", "pro"]}},
        "properties": {
            "a b%/": {"type": "integer", "default": "1"},
            "plan": {"$ref": "#/$defs/plan", "default": "gold"},
            "address": {"required": ["zip"], "properties": {"country": {"default": "DE"}}, "default": {}},
            "fine": {"required": ["country"], "properties": {"country": {"default": "DE"}}, "default": {}}
        }
    }));
    assert_eq!(
        found,
        [
            "/properties/a b%~1/default: the default does not fit: \"1\" is not of type \"integer\"",
            "/properties/address/default: the default does not fit: the property \"zip\" is required",
            "/properties/plan/default: the default does not fit: \"gold\" is not one of \"free\" or \"pro\"",
        ]
    );
}

#[test]
fn defaults_without_end_are_a_problem() {
    let endless =
        json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n", "default": {}}}}}});
    assert!(problems(endless)[0].contains("levels deep"));
    let wide = json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {
        "a": {"$ref": "#/$defs/n", "default": {}}, "b": {"$ref": "#/$defs/n", "default": {}}
    }}}});
    assert!(problems(wide)[0].contains("schema's defaults"));
}

#[test]
fn defaults_cannot_inflate_a_context() {
    let page = "x".repeat(10_000);
    let inflating = schema(json!({"properties": {"a": {"items": {"properties": {"page": {"default": page}}}}}}));
    let context = |count: usize| json!({"a": vec![json!({}); count]}).to_string();
    assert!(inflating.apply(&context(104)).is_ok());
    assert_eq!(violations(&inflating, &context(105)), [": the schema's defaults add more than 1048576 bytes"]);
}

#[test]
fn every_problem_of_a_schema_is_found_at_once() {
    let found = problems(json!({
        "type": "strng",
        "requird": ["a"],
        "properties": {
            "a": {"type": "string", "minLength": -1, "nullable": true, "format": "e-mail"},
            "b": 5,
            "c": {"pattern": "(?=x)", "patternProperties": {"(": {}}},
            "d": {"$ref": "https://example.com/d.json"},
            "e": {"$ref": "#/$defs/none", "zork": 1},
            "f": {"$id": "f", "items": [{}]}
        }
    }));
    let expected = [
        "/properties/a/format: unknown format `e-mail`, did you mean `email`?",
        "/properties/a/minLength: -1 is less than the minimum of 0",
        "/properties/a/nullable: unknown keyword `nullable`; expected a `type` list with \"null\" in it",
        "/properties/b: expected a schema: a mapping, true or false",
        "/properties/c/pattern: expected a regular expression without look-around",
        "/properties/c/patternProperties/(: expected a regular expression",
        "/properties/d/$ref: expected a reference inside this schema (#/…), found `https://example.com/d.json`; nothing is fetched",
        "/properties/e/$ref: there is no `#/$defs/none` in this schema",
        "/properties/e/zork: unknown keyword `zork`; notes of your own begin with `x-`",
        "/properties/f/$id: `$id` is only allowed at the top of the schema",
        "/properties/f/items: expected a schema: a mapping, true or false",
        "/requird: unknown keyword `requird`, did you mean `required`?",
        "/type: a context is a JSON object, so this schema accepts none",
        "/type: expected array, boolean, integer, null, number, object, string, or a list of these",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn nothing_outside_the_schema_is_ever_read() {
    for reference in [
        "file:///etc/hostname",
        "http://127.0.0.1:9/x",
        "other.json",
        "/abs.json",
        "?q",
        "urn:x",
        "//host/x",
        "https://json-schema.org/draft/2020-12/schema",
        "urn:tasker:context-schema#/properties/a",
    ] {
        for keyword in ["$ref", "$dynamicRef"] {
            let found = problems(json!({"properties": {"a": {keyword: reference}}}));
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains("nothing is fetched"), "{found:?}");
        }
    }
    let hidden = json!({"$ref": "#/x-hidden", "x-hidden": {"properties": {"a": {"$ref": "file:///etc/hostname"}}}});
    assert!(problems(hidden)[0].starts_with("/x-hidden/properties/a/$ref: expected a reference inside"));
    let data =
        json!({"properties": {"$ref": {"const": {"$ref": "http://x"}}, "d": {"enum": [{"$id": "y", "format": "z"}]}}});
    schema(data);
}

#[test]
fn drafts_are_chosen_by_their_uri() {
    let uri = |draft: &str| json!({"$schema": draft, "type": "object"});
    for draft in [
        "https://json-schema.org/draft/2020-12/schema",
        "https://json-schema.org/draft/2019-09/schema",
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-06/schema",
        "http://json-schema.org/draft-04/schema#",
    ] {
        schema(uri(draft));
    }
    assert!(
        problems(uri("http://example.com/mine"))[0].starts_with("/$schema: expected the URI of a JSON Schema draft")
    );
    let old = json!({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}},
        "properties": {"a": {"$ref": "#/definitions/a", "minLength": 3}}, "unevaluatedProperties": false});
    let found = problems(old);
    assert!(found[0].starts_with("/properties/a/minLength: this draft ignores keywords beside `$ref`"), "{found:?}");
    assert!(found[1].starts_with("/unevaluatedProperties: unknown keyword"), "{found:?}");
}

#[test]
fn formats_are_asserted_in_every_draft() {
    for draft in ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema#"] {
        let when = schema(json!({"$schema": draft, "properties": {"at": {"format": "date-time"}}}));
        assert_eq!(when.apply(r#"{"at":"2026-01-31T12:00:00Z"}"#), Ok(None));
        assert_eq!(violations(&when, r#"{"at":"yesterday"}"#), ["/at: \"yesterday\" is not a \"date-time\""]);
    }
}

#[test]
fn loops_that_reach_no_value_are_refused() {
    let found = problems(
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
    );
    assert_eq!(found.len(), 1, "{found:?}");
    let cycle = "#/$defs/a → #/$defs/b → #/$defs/b/allOf/0 → #/$defs/a";
    assert_eq!(found[0], format!("/$defs/a: the schema refers to itself without reaching a value: {cycle}"));
    assert_eq!(problems(json!({"$ref": "#"}))[0], ": the schema refers to itself without reaching a value: # → #");
}

/// `n` definitions, each of which applies the next one twice.
fn doubling(n: usize) -> Value {
    let mut defs = serde_json::Map::new();
    for i in 0..n {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        defs.insert(format!("d{i}"), json!({"properties": {"a": next}, "patternProperties": {"a": next}}));
    }
    defs.insert(format!("d{n}"), json!({"type": "object"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

#[test]
fn doubling_work_is_refused() {
    schema(doubling(10));
    let begun = Instant::now();
    assert_eq!(problems(doubling(60)), [": with its references followed, the schema has more than 20000 parts"]);
    let branch = |tag: i32| json!({"properties": {"t": {"const": tag}, "a": {"$ref": "#/$defs/n"}}});
    let recursive = json!({"$ref": "#/$defs/n", "$defs": {"n": {"oneOf": [branch(1), branch(2)]}}});
    assert!(problems(recursive)[0].starts_with("/$defs/n: the schema contains itself in more than one way"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn recursion_with_one_branch_per_value_is_fine() {
    let expression = schema(json!({"properties": {"e": {"$ref": "#/$defs/e"}}, "$defs": {"e": {"oneOf": [
        {"type": "number"},
        {"type": "object", "required": ["op"], "properties": {"op": {"enum": ["add"]}, "args": {"items": {"$ref": "#/$defs/e"}}}}
    ]}}}));
    assert_eq!(expression.apply(r#"{"e":{"op":"add","args":[1,{"op":"add","args":[2,3]}]}}"#), Ok(None));
    let deep = "{\"op\":\"add\",\"args\":[".repeat(60) + "\"x\"" + &"]}".repeat(60);
    let begun = Instant::now();
    assert_eq!(violations(&expression, &format!("{{\"e\":{deep}}}")).len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// The bounds must keep both compiling and validating within the stack of a thread (2 MiB here as in the server).
#[test]
fn the_deepest_schema_and_the_deepest_context_fit_on_the_stack() {
    let mut defs = serde_json::Map::new();
    for i in 0..MAX_SAME_VALUE - 2 {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        defs.insert(format!("d{i}"), next);
    }
    const MAX_SAME_VALUE: usize = cost::MAX_SAME_VALUE_DEPTH;
    let last = json!({"properties": {"a": {"$ref": "#/$defs/d0"}, "n": {"default": 1, "type": "integer"}}});
    defs.insert(format!("d{}", MAX_SAME_VALUE - 2), last);
    let recursive = schema(json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs}));
    let nested = |leaf: &str| "{\"a\":".repeat(127) + leaf + &"}".repeat(127);
    assert!(recursive.apply(&nested("{\"n\":2}")).expect("valid").is_some());
    assert_eq!(violations(&recursive, &nested("{\"n\":\"x\"}")).len(), 1);
}

#[test]
fn schema_depth_is_bounded() {
    let chain = |n: usize| {
        let mut defs = serde_json::Map::new();
        for i in 0..n {
            defs.insert(format!("d{i}"), json!({"properties": {"a": {"$ref": format!("#/$defs/d{}", i + 1)}}}));
        }
        defs.insert(format!("d{n}"), json!({}));
        json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs})
    };
    let fits = (cost::MAX_SCHEMA_DEPTH - 3) / 2;
    schema(chain(fits));
    assert_eq!(
        problems(chain(fits + 1)),
        [": with its references followed, the schema is nested deeper than 200 levels"]
    );

    let same = |n: usize| (0..n).fold(json!({}), |inner, _| json!({"allOf": [inner]}));
    schema(same(cost::MAX_SAME_VALUE_DEPTH - 1));
    assert!(problems(same(cost::MAX_SAME_VALUE_DEPTH))[0].contains("more than 16 schemas lead"));
}

#[test]
fn patterns_are_bounded() {
    let many = |count: usize| {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|i| (format!("p{i}"), json!({"pattern": "^a+$"}))).collect();
        json!({"properties": properties})
    };
    schema(many(MAX_PATTERNS));
    assert_eq!(problems(many(MAX_PATTERNS + 1)).len(), 1);
    for pattern in ["(a)\\1", "(?<!a)b", "[", "(\\p{L}{100}){100}"] {
        assert!(
            problems(json!({"properties": {"a": {"pattern": pattern}}}))[0].starts_with("/properties/a/pattern"),
            "{pattern}"
        );
    }
    let begun = Instant::now();
    let greedy = schema(json!({"properties": {"a": {"pattern": "^(a+)+$"}}}));
    let context = json!({"a": "a".repeat(5_000) + "b"}).to_string();
    assert_eq!(violations(&greedy, &context).len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn many_defaults_compile_in_time() {
    let properties: serde_json::Map<String, Value> =
        (0..2_000).map(|i| (format!("p{i}"), json!({"type": "integer", "default": i}))).collect();
    let begun = Instant::now();
    schema(json!({"properties": properties}));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
