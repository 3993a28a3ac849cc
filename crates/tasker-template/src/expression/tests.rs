//! Refusals of the check, values of evaluations, and each bound at its edge.

mod indexes;
mod problems;
mod values;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::budget::{
    MAX_JUDGING_STEPS,
    tests::{EDGE, ROUNDS, in_time},
};

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
    let context = crate::json_text::parse(context, usize::MAX).expect(context);
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
fn expression_over_a_bound_is_refused() {
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
fn cost_is_computed_before_the_evaluation() {
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
    assert!(why.contains("the limit of one input"), "{why}");
    // A chain that doubles its value at each link is refused before any of it is computed.
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

/// Measures each kind of work at the edge of the budget: inside it ends in time, outside it is
/// refused at once.
#[test]
fn cost_includes_each_macro_and_function() {
    let context = |n: usize| {
        let named: serde_json::Map<String, Value> =
            (0..n).map(|i| (format!("k{i}"), json!(i))).collect();
        let objects: Vec<Value> = (0..n).map(|i| json!({"a": i, "b": [1, 2, 3]})).collect();
        let texts: Vec<String> = (0..n).map(|i| format!("text number {i}")).collect();
        json!({"l": vec![1; n], "m": named, "o": objects, "s": "ab".repeat(n), "t": texts, "half": 0.5})
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
        "context.t.all(x, context.l[context.half] == 1)",
        "context.t.all(x, context.m[context.s] == 1)",
        "context.t.all(x, context.s.contains(x) || context.s.startsWith(x) || context.s.endsWith(x) || size(x) > 0)",
        "context.l.all(x, context.o == context.o)",
        "context.l.all(x, x in context.l)",
        "size(context.l.map(x, context.l + [x])) > 0",
        "size(context.t.map(x, context.s + x)) > 0",
        "context.t.all(x, string(x) == x)",
        "size(context.l.map(x, string(5e-324) + string(-2.2e-308))) > 0",
        "context.l.map(x, x).map(x, x).filter(x, x == 1).all(x, x == 1)",
    ] {
        let (expression, task) = (any(source), json!({}));
        let is_judged = |n: usize| {
            let values = context(n);
            let bytes = values.to_string().len();
            let budget = Budget::of(EDGE);
            let began = Instant::now();
            let verdict = expression.value(&Values::of_task(&values, &task, &budget));
            in_time(began, &budget, &format_args!("{n} for {source}"));
            if matches!(verdict, Err(EvaluationError::TooCostly(_))) {
                return false;
            }
            bytes <= 1024 * 1024
        };
        let (mut judged, mut refused) = (0, 8);
        while is_judged(refused) {
            (judged, refused) = (refused, refused * 2);
        }
        for _ in ROUNDS {
            let middle = usize::midpoint(judged, refused);
            if is_judged(middle) {
                judged = middle;
            } else {
                refused = middle;
            }
        }
    }
}

#[test]
fn expressions_over_the_same_values_share_the_bound() {
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

#[test]
fn elements_of_a_list_after_in_are_checked_once() {
    // A second check of each element would count the macro 2^10 times.
    let inner = "[1].exists(x, x == 1)".to_owned();
    let nested = (0..10).fold(inner, |inner, _| format!("(true in [{inner}])"));
    assert!(condition(&nested).is_ok());
}

/// Evaluates the deepest expressions on a stack of a server thread's size.
#[test]
fn deepest_expression_fits_on_the_stack() {
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

/// Any text in the place of an expression is accepted or refused in time and without a panic.
#[test]
fn random_text_is_refused_in_time() {
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
    for _ in 0..if cfg!(debug_assertions) { 300 } else { 1_500 } {
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
