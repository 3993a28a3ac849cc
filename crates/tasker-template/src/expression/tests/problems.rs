//! Expressions that the check accepts, and those that it refuses, with the place.

use super::*;

#[test]
fn valid_expressions_compile() {
    for source in [
        "context.plan == 'enterprise'",
        "context.plan in ['pro', 'enterprise'] && context.age >= 18",
        "has(context.address) && context.address.city.startsWith('B') || context.address.zip == ''",
        "context.items.exists(i, i.n > 3 && i.name != '')",
        "context.items.map(i, i.n).all(n, n % 2 == 0)",
        "size(context.items) > 0 ? context.vip : !context.vip",
        "context.extra.anything.at.all == 5",
        "context.labels.team == 'a' && 'b' in context.labels && context.labels.all(k, k.size() < 9)",
        "context.maybe == null || context.maybe > 3",
        "double(context.age) * 1.5 < context.amount",
        "task.priority > 0 && task.namespace == 'n'",
        "results.typed.ok && results['a-b'] != null && results.any == null",
        "context.free",
        "context.free == 5 || context.free == 'x'",
        "context.items[0].n == 1 && context['plan'] == 'free'",
        "{'a': 1}.a == 1 && [1, 2][0] == 1",
        "context.age == 5.0",
        "true",
        "// a comment\n true",
    ] {
        if let Err(problem) = condition(source) {
            panic!("{source}: {problem}");
        }
    }
}

const WRONG: &[(&str, u32, &str)] = &[
    ("", 1, "expected an expression, found nothing"),
    ("context.plan = 'x'", 14, "expected an expression in CEL: "),
    ("'éé' = 'x'", 6, "expected an expression in CEL: "),
    ("context.plan ==", 16, "expected an expression in CEL: "),
    ("'a", 1, "expected an expression in CEL: "),
    (
        "contxt.plan == 'x'",
        1,
        "unknown variable `contxt`, did you mean `context`?",
    ),
    (
        "foo",
        1,
        "unknown variable `foo`; expected one of context, task, results",
    ),
    (
        "context.pln == 'pro'",
        8,
        "`context` has no field `pln`, did you mean `plan`?; its schema lists its fields, and would allow others by `additionalProperties: true`",
    ),
    (
        "context.address.street == ''",
        16,
        "`context.address` has no field `street`",
    ),
    (
        "has(context.nothing)",
        4,
        "`context` has no field `nothing`",
    ),
    ("context['pln'] == 'pro'", 8, "`context` has no field `pln`"),
    (
        "context.items.exists(i, i.m > 3)",
        26,
        "`i` has no field `m`",
    ),
    (
        "context.plan.x",
        13,
        "`context.plan` is a string, which has no fields",
    ),
    (
        "context.plan == 'entreprise'",
        14,
        "\"entreprise\" is never equal to a value that is always one of \"free\", \"pro\", \"enterprise\"",
    ),
    (
        "context.plan in ['pro', 'fre']",
        25,
        "\"fre\" is never equal",
    ),
    (
        "context.age == '5'",
        13,
        "an integer is never equal to a string",
    ),
    (
        "context.vip == null",
        13,
        "true or false is never equal to null",
    ),
    (
        "context.age > 'x'",
        13,
        "an integer has no order with a string",
    ),
    ("context.vip < true", 13, "true or false has no order"),
    (
        "5 in context.items",
        3,
        "`in` is never true here: an integer is searched among a map",
    ),
    ("5 in context.labels", 3, "among the names of fields"),
    (
        "5 in context.plan",
        3,
        "expected a list or a map after `in`, found a string",
    ),
    (
        "context.plan",
        1,
        "expected a condition, which is true or false, found a string",
    ),
    ("context.age", 1, "found an integer"),
    (
        "!context.age",
        9,
        "expected true or false, found an integer",
    ),
    (
        "context.vip && context.plan",
        23,
        "expected true or false, found a string",
    ),
    ("context.age ? true : false", 8, "expected true or false"),
    (
        "context.amount * 2 > 5.0",
        16,
        "`*` does not combine a number and an integer",
    ),
    (
        "context.age + 1.5 > 2",
        13,
        "does not combine an integer and a number with a fraction",
    ),
    (
        "context.age + 'x' == 'x'",
        13,
        "`+` does not take an integer and a string",
    ),
    (
        "-context.plan == 'x'",
        1,
        "`-` takes numbers, found a string",
    ),
    ("context.items['a'] == 1", 14, "which has no fields"),
    (
        "context.items[true] == 1",
        14,
        "a list cannot be indexed by true or false",
    ),
    (
        "context.plan.matches('a')",
        21,
        "unknown function `matches`",
    ),
    (
        "startWith(context.plan)",
        10,
        "unknown function `startWith`, did you mean `startsWith`?",
    ),
    (
        "startsWith(context.plan, 'x')",
        11,
        "`startsWith` is called as `a.startsWith(b)`",
    ),
    ("context.age.int() == 1", 16, "`int` is called as `int(a)`"),
    ("size() == 1", 5, "`size` is called as `a.size()`"),
    (
        "context.age.size() == 1",
        8,
        "`size` takes a string or a list or a map, found an integer",
    ),
    (
        "context.items.exists(i)",
        21,
        "`exists` is called as `list.exists(x, condition)`",
    ),
    (
        "context.items.exists(i.a, true)",
        23,
        "argument must be a simple name",
    ),
    (
        "context.age.exists(i, true)",
        8,
        "expected a list or a map, found an integer",
    ),
    (
        "context.items.exists(i, i.n)",
        26,
        "expected true or false, found an integer",
    ),
    (
        "context.items.exists(task, true)",
        21,
        "`task` is a variable already",
    ),
    ("has(context)", 5, "invalid argument to has()"),
    ("5u == 5", 1, "unsigned numbers do not exist"),
    ("b'x' == 'x'", 1, "byte strings do not exist"),
    ("context.amount == 1e300", 19, "is below 2^53 here"),
    (
        "9223372036854775808 == 1",
        1,
        "expected an expression in CEL: ",
    ),
    ("{1: 2} == {}", 2, "expected a string as the key"),
    (
        "Foo{a: 1} == 1",
        4,
        "messages such as `Foo` do not exist here",
    ),
    (
        "task.priorty == 5",
        5,
        "`task` has no field `priorty`, did you mean `priority`?; it has correlation_id, namespace",
    ),
    ("results.typo == 1", 8, "there is no step `typo`"),
    (
        "results == 1",
        1,
        "expected the result of one step, such as `results.step_name`",
    ),
    (
        "results.typed.x == 1",
        14,
        "`results.typed` has no field `x`",
    ),
    ("context.?plan == 'x'", 8, "expected an expression in CEL: "),
];

#[test]
fn invalid_expressions_are_reported_at_their_column() {
    let mut wrong = Vec::new();
    for &(source, column, message) in WRONG {
        let problem = condition(source).expect_err(source);
        if !problem.message.contains(message) || (problem.line, problem.column) != (1, column) {
            wrong.push(format!(
                "{source}\n  {problem}\n  expected {column}: {message}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks a condition against this schema of the context.
fn in_context(schema: &Value, source: &str) -> Result<Expression, ExpressionProblem> {
    let context = Type::of_context(Some(schema));
    Expression::condition(
        source,
        &Scope {
            context: &context,
            results: None,
        },
    )
}

#[test]
fn fields_behind_any_reference_are_known() {
    for reference in [
        json!({"$ref": "#/$defs/a%20b"}),
        json!({"$ref": "#named"}),
        json!({"$dynamicRef": "#dynamic"}),
    ] {
        let mut schema = json!({
            "properties": {"own": {}},
            "$defs": {"a b": {
                "$anchor": "named",
                "$dynamicAnchor": "dynamic",
                "properties": {"plan": {"enum": ["pro"]}}
            }}
        });
        let (keyword, target) = reference.as_object().unwrap().iter().next().unwrap();
        schema[keyword] = target.clone();
        in_context(&schema, "context.plan == 'pro'").expect("known");
        for source in ["context.plan == 'pr'", "context.plans == 1"] {
            in_context(&schema, source).expect_err(&format!("{schema}: {source}"));
        }
    }
    // What is not resolved may have any fields, also beside known ones.
    for unknown in ["#missing", "#/$defs/missing", "https://example.com/x", "#"] {
        let schema = json!({"properties": {"own": {}}, "$ref": unknown});
        in_context(&schema, "context.plan == 'pro'").expect(unknown);
    }
}

#[test]
fn fields_of_a_recursive_schema_are_known_at_each_level() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "properties": {"size": {"type": "integer"}, "left": {"$recursiveRef": "#"}}
    });
    in_context(&schema, "context.left.left.size + 1 == 2").expect("known");
}

#[test]
fn open_branch_permits_each_value_of_a_field() {
    let listed = json!({"properties": {"a": {"type": "string"}}});
    for open in [
        json!({"properties": {"b": {}}, "additionalProperties": true}),
        json!({"properties": {"b": {}}, "additionalProperties": {"type": "integer"}}),
        json!({"patternProperties": {"^a": {"type": "integer"}}, "properties": {"b": {}}}),
        json!({"required": ["a"]}),
        json!(true),
    ] {
        for branches in [json!([listed, open]), json!([open, listed])] {
            for word in ["anyOf", "oneOf"] {
                let schema = json!({word: branches});
                let problem = in_context(&schema, "context.a == 5").err();
                assert!(problem.is_none(), "{schema}: {problem:?}");
            }
        }
    }
    let closed = json!({"anyOf": [listed, {"properties": {"b": {}}}]});
    in_context(&closed, "context.a == 5").expect_err("only a string");
    let parts = json!({"allOf": [
        {"properties": {"l": {"items": {"properties": {"x": {}}}}}},
        {"properties": {"l": {"items": {"properties": {"y": {}}}}}}
    ]});
    in_context(&parts, "context.l.all(i, i.x == i.y)").expect("fields of both");
}

/// A large list behind many references is read as often as the bound of parts allows.
#[test]
fn types_of_large_lists_are_found_in_time() {
    let values: Vec<String> = (0..10_000).map(|value| format!("v{value}")).collect();
    let references: serde_json::Map<String, Value> = (0..5_000)
        .map(|i| (format!("r{i}"), json!({"$ref": "#/$defs/e"})))
        .collect();
    let schema =
        json!({"properties": references, "$defs": {"e": {"enum": values, "required": values}}});
    let began = Instant::now();
    let context = Type::of_context(Some(&schema));
    for source in [
        "context.r0 == 'v7'",
        "context.r0 == context.r1",
        "(true ? context.r0 : context.r1) == context.r2",
        "context.r4999 == 'unread'",
    ] {
        let scope = Scope {
            context: &context,
            results: None,
        };
        Expression::condition(source, &scope).expect(source);
    }
    in_context(&schema, "context.r0 == 'v10000'").expect_err("not listed");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

/// JSON Schema counts 1.0 as an integer, and so do expressions.
#[test]
fn integers_of_a_schema_are_integers_in_expressions() {
    let schema = json!({"properties": {
        "n": {"type": "integer"},
        "half": {"enum": [0.5, 1.5]},
        "one": {"const": 1.0}
    }});
    for source in [
        "context.n + 1 == 2",
        "context.n + context.one == 2",
        "context.half * 2.0 == 1.0",
    ] {
        let expression = in_context(&schema, source).expect(source);
        let context = serde_json::from_str(r#"{"n": 1.0, "half": 0.5, "one": 10e-1}"#).unwrap();
        let (task, budget) = (json!({}), Budget::new());
        assert_eq!(
            expression.holds(&Values::of_task(&context, &task, &budget)),
            Ok(true),
            "{source}"
        );
    }
    in_context(&schema, "context.n + 1.0 == 2.0").expect_err("two kinds");
}

#[test]
fn problem_on_a_later_line_is_reported_at_that_line() {
    let late = condition("true &&\n  'é' == context.pln").expect_err("unknown");
    assert_eq!((late.line, late.column), (2, 17), "{late}");
}

#[test]
fn override_that_reads_results_is_refused() {
    let context = Type::of_context(None);
    let early = Expression::condition(
        "results.a == 1",
        &Scope {
            context: &context,
            results: None,
        },
    )
    .expect_err("early");
    assert!(
        early
            .message
            .contains("results do not exist before the task starts"),
        "{early}"
    );
}

#[test]
fn operators_of_other_languages_get_a_hint() {
    for (source, hint) in [
        ("context.plan == 'a' and true", "CEL writes `&&` for `and`"),
        ("true or context.vip", "CEL writes `||` for `or`"),
        ("not context.vip", "CEL writes `!` for `not`"),
        ("not(context.vip)", "CEL writes `!` for `not`"),
        ("context.vip == True", "CEL writes `true` for `True`"),
        ("context.vip == False", "CEL writes `false` for `False`"),
        ("context.maybe == None", "CEL writes `null` for `None`"),
        ("context.plan = 'and'", "CEL writes `==` for `=`"),
        ("context.vip & true", "CEL writes `&&` for `&`"),
        ("context.vip | true", "CEL writes `||` for `|`"),
    ] {
        let problem = condition(source).expect_err(source);
        assert!(problem.message.contains(hint), "{source}: {problem}");
    }
}
