//! Tasks that are costly to judge or large to assign: conditions over large documents, results
//! against costly schemas, and assignments near and over a worker's limit. An affordable step has
//! to end well, and an unaffordable one with its error code; the checker treats all other tasks as
//! ever.

use std::{fmt::Write as _, sync::Arc};

use crate::{
    client::{Clients, Wish},
    fate::Fate,
    operator,
    seed::Rng,
    shapes::Shape,
};

pub const NAMESPACE: &str = "poison";
/// Answers with an object that holds a long list.
const LIST: &str = "poison.list";
/// Answers with a list that a schema compares with a long `enum`.
const CHOICES: &str = "poison.choices";
/// Answers with a text of about a megabyte.
const LARGE: &str = "poison.large";
/// Answers with null.
const PLAIN: &str = "poison.plain";
pub const HANDLERS: [&str; 4] = [LIST, CHOICES, LARGE, PLAIN];

/// The error codes with which a server ends a step that it cannot afford, whatever its handler
/// answered, or whose condition does not fit the result that an operator set for its parent.
const REFUSALS: [&str; 3] = ["TOO_COSTLY", "ASSIGNMENT_TOO_LARGE", "CONDITION_FAILED"];

/// Lengths of the lists: some that are cheap also for a server built without optimisation, and one
/// that is far too long.
const AFFORDABLE: [usize; 2] = [100, 1_000];
const TOO_MANY: usize = 200_000;
/// A result has at most 1 MiB; a longer one is refused for its size and not for its cost.
const MAX_LIST_BYTES: usize = 900_000;
/// Number of steps with a condition.
const CHILDREN: usize = 20;
/// Number of values in the `enum`.
const VALUES: usize = 200;
const LARGE_BYTES: usize = 1_000_000;
/// Number of large results of a task. A worker of the SDK takes 16 MiB: the first number fits, the
/// second does not.
const PRODUCERS: [usize; 2] = [5, 18];

/// All templates.
pub fn shapes() -> Vec<Shape> {
    let mut all = vec![
        shape("conditions", &conditions()),
        shape("schemas", &schemas()),
    ];
    all.extend(PRODUCERS.map(|n| shape(&format!("sizes_{n}"), &sizes(n))));
    all
}

fn shape(task_name: &str, steps: &str) -> Shape {
    Shape {
        namespace: NAMESPACE.into(),
        task_name: task_name.into(),
        yaml: format!(
            "task_name: {task_name}\nnamespace: {NAMESPACE}\nversion: 1.0.0\nstep_templates:\n{steps}"
        ),
    }
}

fn conditions() -> String {
    let mut steps = format!("  - {{name: first, handler: {LIST}}}\n");
    for n in 0..CHILDREN {
        writeln!(
            steps,
            "  - {{name: c{n}, handler: {PLAIN}, depends_on_step: first, \
             when: 'context.list.all(x, x >= 0) && results.first.list.all(x, x >= 0)'}}"
        )
        .unwrap();
    }
    steps
}

fn schemas() -> String {
    let values: Vec<String> = (0..VALUES)
        .map(|n| {
            if n % 2 == 0 {
                n.to_string()
            } else {
                format!("v{n}")
            }
        })
        .collect();
    format!(
        "  - {{name: first, handler: {CHOICES}, result_schema: {{type: array, items: {{enum: [{}]}}}}}}\n  \
         - {{name: next, handler: {PLAIN}, depends_on_step: first}}\n",
        values.join(", ")
    )
}

fn sizes(producers: usize) -> String {
    let mut steps = String::new();
    for n in 0..producers {
        writeln!(steps, "  - {{name: p{n}, handler: {LARGE}}}").unwrap();
    }
    let all: Vec<String> = (0..producers).map(|n| format!("p{n}")).collect();
    writeln!(
        steps,
        "  - {{name: join, handler: {PLAIN}, depends_on_steps: [{}]}}",
        all.join(", ")
    )
    .unwrap();
    steps
}

/// The answer of a handler of these templates; `None` for any other handler.
pub fn fate(handler: &str, rng: &mut Rng) -> Option<Fate> {
    let json = match handler {
        LIST => format!("{{\"list\":[{}]}}", list(length(rng), "1")),
        // The last value, so that the validator compares all of them.
        CHOICES => format!("[{}]", list(length(rng), &format!("\"v{}\"", VALUES - 1))),
        LARGE => format!("\"{}\"", "x".repeat(LARGE_BYTES)),
        PLAIN => "null".to_owned(),
        _ => return None,
    };
    Some(Fate::Succeed(json))
}

fn length(rng: &mut Rng) -> usize {
    if rng.chance(3_000) {
        TOO_MANY
    } else {
        *rng.pick(&AFFORDABLE)
    }
}

fn list(length: usize, item: &str) -> String {
    let most = MAX_LIST_BYTES / (item.len() + 1);
    vec![item; length.min(most)].join(",")
}

/// Whether a server may end a step of this template with this error although its handler succeeded
/// or never ran.
pub fn is_refusal(template: &str, error_code: Option<&str>) -> bool {
    is_name(template) && error_code.is_some_and(|code| REFUSALS.contains(&code))
}

/// Whether it is the name of one of these templates.
pub fn is_name(template: &str) -> bool {
    template
        .strip_prefix(NAMESPACE)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Submits a task of one of the templates and repairs it when it fails; returns the template's
/// name.
pub async fn submit(clients: &Arc<Clients>, luck: u64) -> String {
    let shapes = shapes();
    let mut rng = Rng::of(luck, NAMESPACE);
    let shape = rng.pick(&shapes);
    let context = format!("{{\"list\":[{}]}}", list(*rng.pick(&AFFORDABLE), "1"));
    let wish = Wish {
        shape,
        context,
        priority: 0,
        keyed: true,
        batch: None,
    };
    let asked = [clients.want(wish)];
    for answer in clients.insist(&mut rng, &asked).await.into_iter().flatten() {
        // Every schema of these templates accepts this result.
        operator::attend(clients, &mut rng, answer.task_id, |_| "[]".into()).await;
    }
    shape.task_name.clone()
}

#[test]
fn poison_of_each_kind_is_a_template_with_handlers() {
    for shape in shapes() {
        let template = tasker_template::Template::parse(&shape.yaml, "");
        let template = template.unwrap_or_else(|problems| panic!("{problems:?}\n{}", shape.yaml));
        for step in &template.steps {
            assert!(HANDLERS.contains(&&*step.handler), "{}", step.handler);
            let fate = fate(&step.handler, &mut Rng::of(1, &step.name));
            let Some(Fate::Succeed(json)) = fate else {
                panic!("{fate:?}")
            };
            serde_json::from_str::<serde_json::Value>(&json).unwrap();
        }
    }
    assert!(is_refusal("poison/conditions", Some("TOO_COSTLY")));
    assert!(!is_refusal("poisonous/conditions", Some("TOO_COSTLY")));
    assert!(!is_refusal("poison/conditions", Some("FATE")));
    assert!(!is_refusal("poison/conditions", None));
}
