//! The cost of an index: a key may be a long text, and the error for a fraction holds a copy of the
//! whole list.

use super::*;

fn spent(source: &str, context: &Value, results: &Value) -> (Result<Value, EvaluationError>, u64) {
    let (task, budget) = (json!({}), Budget::new());
    let results = BTreeMap::from([("any", results)]);
    let values = Values::of_step(context, &task, &results, &budget);
    (any(source).value(&values), budget.spent())
}

/// Each of these would copy tens of millions of items, or gigabytes of text.
#[test]
fn index_by_a_fraction_or_long_text_is_counted_in_each_iteration() {
    let context = json!({
        "rounds": vec![1; 2_000],
        "fractions": vec![0.5; 2_000],
        "objects": vec![json!({"at": 1e-1}); 2_000],
        "list": vec![1; 20_000],
        "half": 0.5,
        "map": {"a": 1},
        "text": "a".repeat(500_000),
    });
    for condition in [
        "context.rounds.all(x, context.list[context.half] == 1)",
        "context.rounds.exists(x, context.list[context.half + context.half] == 1)",
        "context.rounds.all(x, context.list[-context.half] == 1)",
        "context.rounds.all(x, context.list[context.half * context.half] == 1)",
        "context.rounds.all(x, context.list[x == 1 ? context.half : 0] == 1)",
        "context.rounds.all(x, context['list'][context.half] == 1)",
        "context.fractions.all(x, context.list[x] == 1)",
        "context.objects.all(x, context.list[x.at] == 1)",
        "context.objects.map(x, x.at).all(x, context.list[x] == 1)",
        "[context.list].all(l, context.rounds.all(x, l[context.half] == 1))",
        "context.rounds.all(x, context.map[context.text] == 1)",
        "context.rounds.all(x, context.map[context.text + 'b'] == 1)",
        "[context.text].all(t, context.rounds.all(x, context.map[t] == 1))",
        "[context.map].all(m, context.rounds.all(x, m[context.text] == 1))",
    ] {
        let began = Instant::now();
        let (verdict, _) = spent(condition, &context, &Value::Null);
        assert!(
            matches!(verdict, Err(EvaluationError::TooCostly(_))),
            "{condition}: {verdict:?}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{condition}: {:?}",
            began.elapsed()
        );
    }
}

#[test]
fn index_into_an_ordinary_document_takes_little_of_the_budget() {
    let (items, kinds) = (200, 50);
    let item = |i: usize| {
        let kind = format!("kind-{}", i % kinds);
        json!({"n": 100, "at": i, "kind": kind, "price": 19.99, "name": "an ordinary item", "tags": ["a", "b"]})
    };
    let list: Vec<Value> = (0..items).map(item).collect();
    let limits: serde_json::Map<String, Value> = (0..kinds)
        .map(|kind| (format!("kind-{kind}"), json!(9.5)))
        .collect();
    let prices = vec![9.99; items];
    let context =
        json!({"items": list, "limits": limits, "prices": prices, "half": 0.5, "m": {"k": true}});
    let results = json!({"list": list});
    for source in [
        "context.items[0].price > 10.0",
        r#"context.m["k"]"#,
        "context.m[context.items[0].kind] || true",
        "context.items[context.items[7].at].n == 100",
        "results.any.list[199].price > context.prices[199]",
        "results.any.list.all(x, x.n > int(context.limits[x.kind]))",
        "context.limits.all(kind, context.limits[kind] == 9.5)",
        // The price beside `at` may be a fraction, so each round counts all prices.
        "results.any.list.all(x, context.prices[x.at] < x.price)",
    ] {
        let (verdict, steps) = spent(source, &context, &results);
        assert_eq!(verdict, Ok(json!(true)), "{source}");
        assert!(steps < MAX_JUDGING_STEPS / 3, "{source}: {steps} steps");
    }
    // A single lookup that fails costs no more than the document.
    let (verdict, steps) = spent("context.items[context.half] == 1", &context, &results);
    assert!(
        matches!(verdict, Err(EvaluationError::Failed(_))),
        "{verdict:?}"
    );
    assert!(steps < MAX_JUDGING_STEPS / 10, "{steps} steps");
}
