//! What the check refuses, what an evaluation gives, and each bound at its edge.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::domain::budget::MAX_JUDGING_STEPS;

fn schema() -> Value {
    json!({
        "type": "object",
        "required": ["email"],
        "properties": {
            "email": {"type": "string"},
            "plan": {"type": "string", "enum": ["free", "pro", "enterprise"]},
            "age": {"type": "integer"},
            "amount": {"type": "number"},
            "vip": {"type": "boolean"},
            "items": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}}},
            "address": {"$ref": "#/$defs/address"},
            "extra": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "maybe": {"type": ["integer", "null"]},
            "free": {}
        },
        "$defs": {"address": {"type": "object", "properties": {"city": {"type": "string"}}, "allOf": [{"properties": {"zip": {"type": "string"}}}]}}
    })
}

fn results(step: &str) -> Result<Type, String> {
    match step {
        "typed" => Ok(Type::of_schema(
            &json!({"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}}}),
        )),
        "any" | "a-b" => Ok(Type::of_schema(&Value::Bool(true))),
        _ => Err(format!("there is no step `{step}`")),
    }
}

fn condition(source: &str) -> Result<Expression, ExpressionProblem> {
    let context = Type::of_context(Some(&schema()));
    Expression::condition(
        source,
        &Scope {
            context: &context,
            results: Some(&results),
        },
    )
}

fn any(source: &str) -> Expression {
    let context = Type::of_context(None);
    Expression::compile(
        source,
        &Scope {
            context: &context,
            results: Some(&results),
        },
    )
    .unwrap_or_else(|problem| panic!("{source}: {problem}"))
}

fn eval(source: &str, context: &str) -> Result<Value, String> {
    let context = crate::domain::json::parse(context, usize::MAX).expect(context);
    let task = json!({"namespace": "n", "task_name": "t", "version": "1.0.0", "correlation_id": "c", "priority": 5});
    let results = json!({"typed": {"ok": true, "n": 3}, "any": null, "a-b": [1]});
    let results = results
        .as_object()
        .expect("an object")
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    any(source)
        .value(&Values::of_step(&context, &task, &results, &Budget::new()))
        .map_err(|why| why.to_string())
}

#[test]
fn what_is_right_compiles() {
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

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn what_is_wrong_is_told_at_its_place() {
    let mut wrong = Vec::new();
    for (source, column, message) in [
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
            "\"entreprise\" is never equal to what is always one of \"free\", \"pro\", \"enterprise\"",
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
            "`in` is never true here: an integer is looked for among a map",
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
            "a number and an integer do not mix in `*`",
        ),
        (
            "context.age + 1.5 > 2",
            13,
            "an integer and a number with a fraction do not mix",
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
        ("5u == 5", 1, "there are no unsigned numbers"),
        ("b'x' == 'x'", 1, "there are no byte strings"),
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
            "there are no messages such as `Foo` here",
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
    ] {
        let problem = condition(source).expect_err(source);
        if !problem.message.contains(message) || (problem.line, problem.column) != (1, column) {
            wrong.push(format!(
                "{source}\n  {problem}\n  expected {column}: {message}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let late = condition("true &&\n  'é' == context.pln").expect_err("unknown");
    assert_eq!((late.line, late.column), (2, 17), "{late}");
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
            .contains("there are no results before the task starts"),
        "{early}"
    );
}

#[test]
fn values_come_out() {
    for (source, context, expected) in [
        ("context.a == 1", r#"{"a": 1}"#, json!(true)),
        ("context.a == 1", r#"{"a": 1.0}"#, json!(true)),
        ("context.a > 1", r#"{"a": 1.5}"#, json!(true)),
        (
            "context.a == 9007199254740993",
            r#"{"a": 9007199254740993}"#,
            json!(true),
        ),
        (
            "context.a == 9007199254740992",
            r#"{"a": 9007199254740993}"#,
            json!(false),
        ),
        (
            "context.a > 9223372036854775807",
            r#"{"a": 18446744073709551615}"#,
            json!(true),
        ),
        ("has(context.a)", "{}", json!(false)),
        ("has(context.a)", r#"{"a": null}"#, json!(true)),
        ("has(context.a) && context.a.b == 1", "{}", json!(false)),
        ("has(context.a.b)", r#"{"a": {"c": 1}}"#, json!(false)),
        ("context.a == 1 || true", "{}", json!(true)),
        (
            "context.items.exists(i, i.n > 1)",
            r#"{"items": [{"n": 1}, {"n": 2}]}"#,
            json!(true),
        ),
        (
            "context.items.all(i, i.n > 1)",
            r#"{"items": [{"n": 1}, {"n": 2}]}"#,
            json!(false),
        ),
        (
            "context.items.exists_one(i, i > 1)",
            r#"{"items": [1, 2]}"#,
            json!(true),
        ),
        (
            "context.items.map(i, i * 2)",
            r#"{"items": [1, 2]}"#,
            json!([2, 4]),
        ),
        (
            "context.items.filter(i, i > 1)",
            r#"{"items": [1, 2]}"#,
            json!([2]),
        ),
        (
            "context.items.map(i, i > 1, i + 1)",
            r#"{"items": [1, 2]}"#,
            json!([3]),
        ),
        (
            "context.m.exists(k, context.m[k] == 2)",
            r#"{"m": {"x": 1, "y": 2}}"#,
            json!(true),
        ),
        ("'é' in context.m", r#"{"m": {"é": 1}}"#, json!(true)),
        (
            "{'b': context.a, 'a': [true, null]}",
            r#"{"a": "x"}"#,
            json!({"a": [true, null], "b": "x"}),
        ),
        ("string(context.a) + '!'", r#"{"a": 5}"#, json!("5!")),
        ("int('42') + size('äö')", "{}", json!(44)),
        ("results.typed.n + 1", "{}", json!(4)),
        (
            "results.any == null && task.priority == 5",
            "{}",
            json!(true),
        ),
        ("results['a-b'][0]", "{}", json!(1)),
    ] {
        assert_eq!(eval(source, context), Ok(expected), "{source} of {context}");
    }
    // A plain path gives the value as it is written.
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
fn what_cannot_be_computed_says_why() {
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
        ("context.a > 1", r#"{"a": 1e16}"#, "below 2^53"),
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
        ("1.0 / context.a", r#"{"a": 0.0}"#, "not a number in JSON"),
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

/// A number elsewhere in the context is nobody's business.
#[test]
fn only_what_is_read_is_looked_at() {
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

#[test]
fn bounds_of_the_source() {
    let long = |bytes: usize| format!("true{}", " ".repeat(bytes - 4));
    condition(&long(MAX_EXPRESSION_BYTES)).expect("fits");
    let problem = condition(&long(MAX_EXPRESSION_BYTES + 1)).expect_err("too long");
    assert_eq!(
        problem.message,
        "the expression has 2049 bytes, but at most 2048 are allowed"
    );

    let nested =
        |levels: usize| format!("{}true{}", "[".repeat(levels), "]".repeat(levels)) + " == []";
    any(&nested(MAX_EXPRESSION_DEPTH - 2));
    for source in [
        nested(MAX_EXPRESSION_DEPTH - 1),
        nested(500),
        "1+".repeat(40) + "1 == 1",
        "a.".repeat(900) + "a",
    ] {
        let context = Type::of_context(None);
        let problem = Expression::compile(
            &source,
            &Scope {
                context: &context,
                results: None,
            },
        )
        .expect_err(&source);
        assert_eq!(problem.message, "nested deeper than 32 levels", "{source}");
    }

    let macros = |count: usize| vec!["context.free.all(x, true)"; count].join(" && ");
    condition(&macros(MAX_MACROS)).expect("fits");
    assert_eq!(
        condition(&macros(MAX_MACROS + 1))
            .expect_err("many")
            .message,
        "more than 16 macros in one expression"
    );

    let within = |levels: usize| {
        let open: String = (0..levels)
            .map(|level| format!("context.free.all(x{level}, "))
            .collect();
        format!("{open}true{}", ")".repeat(levels))
    };
    condition(&within(MAX_MACRO_DEPTH)).expect("fits");
    assert_eq!(
        condition(&within(MAX_MACRO_DEPTH + 1))
            .expect_err("deep")
            .message,
        "macros nested deeper than 3 levels"
    );
}

#[test]
fn the_cost_is_known_before_it_is_spent() {
    let list = |items: usize| json!({"l": vec![1; items]}).to_string();
    let cost = |source: &str, context: &str| {
        let context: Value = serde_json::from_str(context).expect("JSON");
        let tree = any(source);
        bounds::cost(&tree.0.0.expr, &|name| {
            (name == "context").then_some(Variable::Document(&context))
        })
    };
    let square = "context.l.all(a, context.l.all(b, a == b))";
    let edge = MAX_JUDGING_STEPS / STEPS;
    let side = (1..)
        .find(|n| cost(square, &list(*n)) > edge - (*n as u64) - 2)
        .expect("some");
    assert_eq!(eval(square, &list(side - 1)), Ok(json!(true)), "{side}");
    let began = Instant::now();
    let why = eval(square, &list(side)).expect_err("too much");
    assert!(why.contains("one input may take"), "{why}");
    // What doubles at each link of a chain is refused, too, and none of it is computed.
    for link in [".map(x, [x, x])", ".map(x, x + x)"] {
        let chain = format!("context.l{} == []", link.repeat(MAX_MACROS));
        let why = eval(
            &chain,
            r#"{"l": ["0123456789abcdef0123456789abcdef", "b", "c", "d", "e", "f", "g", "h"]}"#,
        )
        .expect_err("too much");
        assert!(why.contains("steps"), "{why}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

/// Each kind of work at its edge: inside it is done in time, outside it is refused at once.
#[test]
fn each_macro_and_function_is_counted() {
    let context = |n: usize| {
        let named: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("k{i}"), json!(i))).collect();
        let objects: Vec<Value> = (0..n).map(|i| json!({"a": i, "b": [1, 2, 3]})).collect();
        let texts: Vec<String> = (0..n).map(|i| format!("text number {i}")).collect();
        json!({"l": vec![1; n], "m": named, "o": objects, "s": "ab".repeat(n), "t": texts})
    };
    for source in [
        "context.l.all(x, context.l.all(y, x == y))",
        "context.l.exists(x, context.l.exists(y, x != y))",
        "context.l.exists_one(x, context.l.exists_one(y, x != y))",
        "size(context.l.map(x, context.l.map(y, x + y))) > 0",
        "size(context.l.filter(x, size(context.l.filter(y, y == x)) > 0)) > 0",
        "size(context.l.map(x, x)) > 0",
        "size(context.o.map(x, x.a)) > 0",
        "size(context.o.filter(x, x.a > 1)) > 0",
        "context.m.all(k, context.m[k] >= 0)",
        "context.t.all(x, context.s.contains(x) || context.s.startsWith(x) || context.s.endsWith(x) || size(x) > 0)",
        "context.l.all(x, context.o == context.o)",
        "context.l.all(x, x in context.l)",
        "size(context.l.map(x, context.l + [x])) > 0",
        "size(context.t.map(x, context.s + x)) > 0",
        "context.t.all(x, string(x) == x)",
        "context.l.map(x, x).map(x, x).filter(x, x == 1).all(x, x == 1)",
    ] {
        let (expression, task) = (any(source), json!({}));
        let mut n = 8;
        loop {
            let values = context(n);
            let bytes = values.to_string().len();
            let budget = Budget::new();
            let began = Instant::now();
            let verdict = expression.value(&Values::of_task(&values, &task, &budget));
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{source} of {n}: {:?}",
                began.elapsed()
            );
            if matches!(verdict, Err(EvaluationError::TooCostly(_))) {
                break;
            }
            assert!(
                budget.spent() <= expression.cost_bound(bytes),
                "{source} of {n}: {}",
                budget.spent()
            );
            if bytes > 1024 * 1024 {
                break;
            }
            n *= 2;
        }
    }
}

#[test]
fn other_languages_words_get_a_hint() {
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

#[test]
fn expressions_with_the_same_values_share_the_bound() {
    let context = json!({"l": vec![1; 100_000]});
    let task = json!({});
    let budget = Budget::new();
    let values = Values::of_task(&context, &task, &budget);
    let expression = any("context.l == context.l");
    assert_eq!(expression.holds(&values), Ok(true));
    assert!((0..5).any(|_| expression.holds(&values).is_err()));
    assert_eq!(
        expression.holds(&Values::of_task(&context, &task, &Budget::new())),
        Ok(true)
    );
}

/// The deepest expressions there can be, on a stack like a server's.
#[test]
fn the_deepest_expression_fits_on_a_stack() {
    let inner = format!(
        "{}1{}",
        "[".repeat(MAX_EXPRESSION_DEPTH - 6),
        "]".repeat(MAX_EXPRESSION_DEPTH - 6)
    );
    let nested =
        format!("context.l.all(a, context.l.all(b, context.l.all(c, size({inner}) == 1)))");
    let other = format!("{}1 == 1", "1 + ".repeat(MAX_EXPRESSION_DEPTH - 2));
    let thread = std::thread::Builder::new()
        .stack_size(1024 * 1024)
        .spawn(move || {
            assert_eq!(eval(&nested, r#"{"l": [1, 2]}"#), Ok(json!(true)));
            assert_eq!(eval(&other, "{}"), Ok(json!(false)));
        });
    thread.expect("spawned").join().expect("no overflow");
}

/// Anything may be written where an expression is expected: it is refused or accepted, in time and without a panic.
#[test]
fn nonsense_is_refused_in_time() {
    const WORDS: [&str; 40] = [
        "context", ".", "plan", "(", ")", "[", "]", "{", "}", ",", ":", "?", "!", "-", "+", "*",
        "/", "%", "==", "<", "in", "&&", "||", "'x'", "\"", "'", "1", "1.5", "1e9", "0x", "u",
        "b'", "r'", "\\", "true", "null", "all(x, ", "has(", "é", "//",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % n as u64).expect("small")
    };
    let began = Instant::now();
    for _ in 0..1_500 {
        let source: String = (0..=random(30))
            .map(|_| WORDS[random(WORDS.len())])
            .collect();
        if let Ok(expression) = condition(&source) {
            let (context, none, budget) = (json!({"plan": "pro"}), json!({}), Budget::new());
            let _ = expression.holds(&Values::of_step(
                &context,
                &none,
                &StepResults::new(),
                &budget,
            ));
        }
    }
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
}
