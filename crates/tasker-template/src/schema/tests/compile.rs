//! Problems of schemas themselves, and their bounds of cost.

use std::time::{Duration, Instant};

use super::*;

#[test]
fn default_that_does_not_match_is_a_problem() {
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
            "/properties/a b%~1/default: the default does not match: \"1\" is not of type \"integer\"",
            "/properties/address/default: the default does not match: the property \"zip\" is required",
            "/properties/plan/default: the default does not match: \"gold\" is not one of \"free\" or \"pro\"",
        ]
    );
}

#[test]
fn recursive_defaults_are_a_problem() {
    let endless = json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"a": {"$ref": "#/$defs/n", "default": {}}}}}});
    assert!(problems(endless)[0].contains("levels deep"));
    let wide = json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {
        "a": {"$ref": "#/$defs/n", "default": {}}, "b": {"$ref": "#/$defs/n", "default": {}}
    }}}});
    assert!(problems(wide)[0].contains("schema's defaults"));
}

#[test]
fn schema_with_several_problems_reports_all() {
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
        "/properties/a/minLength: -1 is less than the minimum of 0",
        "/properties/b: expected a schema: a mapping, true or false",
        "/properties/c/pattern: expected a regular expression without look-around",
        "/properties/c/patternProperties/(: expected a regular expression",
        "/properties/d/$ref: expected a reference inside this schema (#/…), found `https://example.com/d.json`; nothing is fetched",
        "/properties/e/$ref: there is no `#/$defs/none` in this schema",
        "/properties/e/zork: unknown keyword `zork`; own annotations begin with `x-`",
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
fn reference_outside_the_schema_is_refused() {
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
    assert!(
        problems(hidden)[0].starts_with("/x-hidden/properties/a/$ref: expected a reference inside")
    );
    let data = json!({"properties": {"$ref": {"const": {"$ref": "http://x"}}, "d": {"enum": [{"$id": "y", "format": "z"}]}}});
    schema(data);
}

#[test]
fn draft_is_chosen_by_its_uri() {
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
        problems(uri("http://example.com/mine"))[0]
            .starts_with("/$schema: expected the URI of a JSON Schema draft")
    );
    let old = json!({"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"a": {}},
        "properties": {"a": {"$ref": "#/definitions/a", "minLength": 3}}, "unevaluatedProperties": false});
    let found = problems(old);
    assert!(
        found[0].starts_with("/properties/a/minLength: this draft ignores keywords beside `$ref`"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("/unevaluatedProperties: unknown keyword"),
        "{found:?}"
    );
}

#[test]
fn formats_are_asserted_in_each_draft() {
    for draft in [
        "https://json-schema.org/draft/2020-12/schema",
        "http://json-schema.org/draft-07/schema#",
    ] {
        let when = schema(json!({"$schema": draft, "properties": {"at": {"format": "date-time"}}}));
        assert_eq!(apply(&when, r#"{"at":"2026-01-31T12:00:00Z"}"#), Ok(None));
        assert_eq!(
            violations(&when, r#"{"at":"yesterday"}"#),
            ["/at: \"yesterday\" is not a \"date-time\""]
        );
    }
}

#[test]
fn reference_loop_without_a_value_is_refused() {
    let found = problems(
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
    );
    assert_eq!(found.len(), 1, "{found:?}");
    let cycle = "#/$defs/a → #/$defs/b → #/$defs/b/allOf/0 → #/$defs/a";
    assert_eq!(
        found[0],
        format!("/$defs/a: the schema refers to itself without reaching a value: {cycle}")
    );
    assert_eq!(
        problems(json!({"$ref": "#"}))[0],
        ": the schema refers to itself without reaching a value: # → #"
    );
}

/// `n` definitions, each of which applies the next one twice.
fn doubling(n: usize) -> Value {
    let mut defs = serde_json::Map::new();
    for i in 0..n {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        defs.insert(
            format!("d{i}"),
            json!({"properties": {"a": next}, "patternProperties": {"a": next}}),
        );
    }
    defs.insert(format!("d{n}"), json!({"type": "object"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

#[test]
fn schema_whose_cost_doubles_per_level_is_refused() {
    schema(doubling(10));
    let begun = Instant::now();
    assert_eq!(
        problems(doubling(60)),
        [": with its references followed, the schema has more than 20000 parts"]
    );
    let branch =
        |tag: i32| json!({"properties": {"t": {"const": tag}, "a": {"$ref": "#/$defs/n"}}});
    let recursive = json!({"$ref": "#/$defs/n", "$defs": {"n": {"oneOf": [branch(1), branch(2)]}}});
    assert!(
        problems(recursive)[0]
            .starts_with("/$defs/n: the schema contains itself in more than one way")
    );
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn recursion_with_one_branch_per_value_is_accepted() {
    let expression = schema(
        json!({"properties": {"e": {"$ref": "#/$defs/e"}}, "$defs": {"e": {"oneOf": [
            {"type": "number"},
            {"type": "object", "required": ["op"], "properties": {"op": {"enum": ["add"]}, "args": {"items": {"$ref": "#/$defs/e"}}}}
        ]}}}),
    );
    assert_eq!(
        apply(
            &expression,
            r#"{"e":{"op":"add","args":[1,{"op":"add","args":[2,3]}]}}"#
        ),
        Ok(None)
    );
    let deep = "{\"op\":\"add\",\"args\":[".repeat(60) + "\"x\"" + &"]}".repeat(60);
    let begun = Instant::now();
    assert_eq!(
        violations(&expression, &format!("{{\"e\":{deep}}}")).len(),
        1
    );
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
}

/// The bounds must keep compiling and validating within the stack of a thread (2 MiB here as in the
/// server).
#[test]
fn deepest_schema_and_context_fit_on_the_stack() {
    const MAX_SAME_VALUE: usize = cost::MAX_SAME_VALUE_DEPTH;
    let mut defs = serde_json::Map::new();
    for i in 0..MAX_SAME_VALUE - 2 {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        defs.insert(format!("d{i}"), next);
    }
    let last = json!({"properties": {"a": {"$ref": "#/$defs/d0"}, "n": {"default": 1, "type": "integer"}}});
    defs.insert(format!("d{}", MAX_SAME_VALUE - 2), last);
    let recursive = schema(json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs}));
    let nested = |leaf: &str| "{\"a\":".repeat(127) + leaf + &"}".repeat(127);
    assert!(
        apply(&recursive, &nested("{\"n\":2}"))
            .expect("valid")
            .is_some()
    );
    assert_eq!(violations(&recursive, &nested("{\"n\":\"x\"}")).len(), 1);
}

#[test]
fn schema_over_the_depth_is_refused() {
    let chain = |n: usize| {
        let mut defs = serde_json::Map::new();
        for i in 0..n {
            defs.insert(
                format!("d{i}"),
                json!({"properties": {"a": {"$ref": format!("#/$defs/d{}", i + 1)}}}),
            );
        }
        defs.insert(format!("d{n}"), json!({}));
        json!({"properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": defs})
    };
    let fits = (cost::MAX_SCHEMA_DEPTH - 3) / 2;
    schema(chain(fits));
    assert_eq!(
        problems(chain(fits + 1)),
        [": with its references followed, the schema is nested deeper than 500 levels"]
    );

    let mut ring = chain(fits);
    ring["$defs"][format!("d{fits}")] = json!({"properties": {"a": {"$ref": "#/$defs/d0"}}});
    let context = "{\"a\":".repeat(127) + "{}" + &"}".repeat(127);
    assert_eq!(apply(&schema(ring), &context), Ok(None));

    let same = |n: usize| (0..n).fold(json!({}), |inner, _| json!({"allOf": [inner]}));
    schema(same(cost::MAX_SAME_VALUE_DEPTH - 1));
    assert!(problems(same(cost::MAX_SAME_VALUE_DEPTH))[0].contains("more than 12 schemas lead"));
}

#[test]
fn schema_over_the_number_of_patterns_is_refused() {
    let many = |count: usize| {
        let properties: serde_json::Map<String, Value> = (0..count)
            .map(|i| (format!("p{i}"), json!({"pattern": "^a+$"})))
            .collect();
        json!({"properties": properties})
    };
    schema(many(MAX_PATTERNS));
    assert_eq!(problems(many(MAX_PATTERNS + 1)).len(), 1);
    for pattern in ["(a)\\1", "(?<!a)b", "[", "(\\p{L}{100}){100}"] {
        assert!(
            problems(json!({"properties": {"a": {"pattern": pattern}}}))[0]
                .starts_with("/properties/a/pattern"),
            "{pattern}"
        );
    }
    let begun = Instant::now();
    let greedy = schema(json!({"properties": {"a": {"pattern": "^(a+)+$"}}}));
    let context = json!({"a": "a".repeat(5_000) + "b"}).to_string();
    assert_eq!(violations(&greedy, &context).len(), 1);
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
}

/// Compiles in time, whether or not there are problems.
fn compiled_in_time(value: &Value) -> Result<ContextSchema, Vec<SchemaProblem>> {
    let begun = Instant::now();
    let compiled = ContextSchema::compile(value);
    let took = begun.elapsed();
    println!("{took:?} for {}", &value.to_string()[..60]);
    assert!(took < Duration::from_secs(5), "{took:?}");
    compiled
}

#[test]
fn schema_with_many_defaults_compiles_in_time() {
    let many = |count: usize, part: &dyn Fn(usize) -> Value| {
        let properties: serde_json::Map<String, Value> =
            (0..count).map(|i| (format!("p{i}"), part(i))).collect();
        json!({"properties": properties})
    };
    let integers = |i: usize| json!({"type": "integer", "default": i});
    compiled_in_time(&many(2_000, &integers)).expect("valid");
    // Each default is checked against the whole schema, which contains all of them.
    let recursive = |_| json!({"$ref": "#", "default": {"p0": null}});
    compiled_in_time(&many(5_000, &recursive)).expect_err("p0 is no object");
}

#[test]
fn defaults_over_the_budget_are_refused() {
    let constants: Vec<i64> = (0..1_000).collect();
    let list = |count: usize| json!({"properties": {"a": {"items": {"enum": constants}, "default": vec![999; count]}}});
    let each = crate::budget::MAX_JUDGING_STEPS / 10_300;
    schema(list(usize::try_from(each).expect("small") * 9 / 10));
    let found = problems(list(usize::try_from(each).expect("small") * 11 / 10));
    assert!(
        found[0].starts_with("/properties/a/default: checking the defaults takes at least 4")
            && found[0].contains("all defaults of a template have 4000000"),
        "{found:?}"
    );
    // All of them share the budget, also those of several schemas.
    let mut allowance = Allowance::default();
    let half = list(usize::try_from(each).expect("small") * 6 / 10);
    ContextSchema::compile_within(&half, true, &mut allowance).expect("fits");
    ContextSchema::compile_within(&half, true, &mut allowance).expect_err("the rest is too small");
}

#[test]
fn patterns_of_all_schemas_share_their_bound() {
    let with = |count: usize| {
        let patterns: serde_json::Map<String, Value> =
            (0..count).map(|i| (format!("^a{i}"), json!({}))).collect();
        json!({"patternProperties": patterns})
    };
    let mut allowance = Allowance::default();
    let mut compile = |schema: &Value| {
        ContextSchema::compile_within(schema, true, &mut allowance)
            .map(drop)
            .map_err(|problems| problems[0].message.clone())
    };
    assert_eq!(compile(&with(150)), Ok(()));
    // Also those of a schema that is refused, since its patterns were compiled.
    assert!(compile(&json!({"pattern": "["})).is_err());
    assert_eq!(compile(&with(49)), Ok(()));
    let expected = "the schemas of a template have at most 200 patterns together";
    assert_eq!(compile(&with(1)), Err(expected.into()));
    assert_eq!(compile(&json!({})), Ok(()));
}

/// A long name is part of the pointer of each value below it.
#[test]
fn schema_with_long_names_and_many_parts_is_refused() {
    let below = |length: usize, parts: usize| {
        let parts: serde_json::Map<String, Value> =
            (0..parts).map(|i| (format!("{i}"), json!({}))).collect();
        json!({"properties": {"n".repeat(length): {"properties": parts}}})
    };
    schema(below(1_000, 5_000));
    assert_eq!(
        problems(below(100_000, 10_000)),
        [
            ": the names in the schema are too long for its depth: its JSON pointers have more than 16777216 bytes in all"
        ]
    );
}

/// The URI of a part is the base of each place in it.
#[test]
fn long_uris_are_refused() {
    let with = |id: String, inner: &str| json!({"$id": id, "properties": {"a": {"$id": inner, "properties": {"b": {"$ref": "#/properties/c"}, "c": {}}}}});
    let base = |bytes: usize| format!("https://example.com/{}", "n".repeat(bytes));
    schema(with(base(900), "a"));
    for (id, inner) in [(base(2_000), "a"), (base(900), &*"n".repeat(900))] {
        let found = problems(with(id, inner));
        assert!(found[0].contains("more than 1024 bytes"), "{found:?}");
    }
    // Each of many references by a short URI becomes a long pointer.
    let references: serde_json::Map<String, Value> = (0..2_000)
        .map(|i| (format!("r{i}"), json!({"$ref": "a"})))
        .collect();
    let far = |length: usize| {
        json!({
            "$id": "https://example.com/",
            "properties": references,
            "$defs": {"n".repeat(length): {"$id": "a"}}
        })
    };
    schema(far(100));
    let found = problems(far(20_000));
    assert!(
        found[0].contains("the references by it are too long"),
        "{found:?}"
    );
}

/// Any number of schemas may apply to one value: a document pays for each of them.
#[test]
fn many_schemas_for_one_value_compile_in_time() {
    compiled_in_time(&json!({"oneOf": vec![json!({"required": ["a"]}); 10_000]})).expect("valid");
    // Each `unevaluatedProperties` makes the validator apply the schemas beside it twice.
    let nested = |levels: usize, inner: Value| {
        (0..levels).fold(
            inner,
            |inner, _| json!({"allOf": [inner], "unevaluatedProperties": false}),
        )
    };
    let wide = json!({"anyOf": vec![json!({"properties": {"a": {}}}); 1_000]});
    let deepest = compiled_in_time(&nested(cost::MAX_SAME_VALUE_DEPTH - 2, wide)).expect("valid");
    let (budget, mut context) = (Budget::new(), json!({"a": 1}));
    assert!(matches!(
        deepest.apply(r#"{"a":1}"#, &mut context, &budget),
        Err(Misfit::TooCostly(_))
    ));
    let narrow = compiled_in_time(&nested(7, json!({"properties": {"a": {}}}))).expect("valid");
    let budget = Budget::new();
    assert_eq!(narrow.apply(r#"{"a":1}"#, &mut context, &budget), Ok(None));
    // Two references at each of twelve levels.
    let mut definitions = doubling(11);
    for level in 0..11 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        definitions["$defs"][format!("d{level}")] =
            json!({"allOf": [next, next], "unevaluatedProperties": false});
    }
    let found = compiled_in_time(&definitions).expect_err("deep");
    assert!(found[0].message.contains("schemas lead"), "{found:?}");
}
