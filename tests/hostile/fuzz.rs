//! Random templates and worker streams, of any content and in any order, from a printed seed.

use std::time::{Duration, Instant};

use prost::Message as _;
use tasker::proto::{
    Drain, Heartbeat, Register, RetryableError, StepResult, WorkRequest, WorkResponse,
    step_result::Outcome, work_request::Message as Says, work_response::Message as Hears,
};
use tasker_template::Template;

use crate::{
    raw::{Stream, field},
    support::{
        invariants::invariants,
        random::Random,
        server::{register, state},
        worker::{permanent, registration, released, success},
    },
    target::{GOOD, SEED, Target},
};

const YAMLS: usize = 15_000;
/// A template is parsed while a client waits.
const READ_LIMIT: Duration = Duration::from_millis(500);
const MOMENT: Duration = Duration::from_millis(15);
/// For a worker that has just registered: on a busy machine its steps take a while to arrive.
const FIRST_MOMENT: Duration = Duration::from_millis(200);
const STREAMS: usize = 120;
const TASKS: usize = 20;
const FUZZ: &str = "
task_name: fuzz
namespace: hostile
version: 1.0.0
step_templates:
  - {name: a, handler_class: fuzz, backoff: {base_seconds: 0.01, max_seconds: 0.02}}
  - {name: b, handler_class: fuzz, depends_on_steps: [a], backoff: {base_seconds: 0.01, max_seconds: 0.02}}
";
/// A template with overrides, a planner and conditions, to be damaged.
const ADAPTING: &str = "
task_name: adapting
timeout_seconds: 60
schema: {type: object, properties: {plan: {type: string, enum: [free, pro]}, items: {type: array, items: {type: integer}}}}
planner: {handler: plan, default_retry_limit: 2}
overrides:
  - when: context.plan == 'pro' && context.items.exists(i, i > 3)
    priority: 5
    steps: {a: {retry_limit: 5, handler_config: {timeout_seconds: 45}, backoff: {jitter: 0}}}
  - {when: true, annotations: {plan: '${context.plan} ${size(context.items) + 1}'}}
environments:
  production: {step_templates: [{name: b, when: results.a.ok}], annotations: {a: 1}}
step_templates:
  - {name: a, handler: h, result_schema: {type: object, properties: {ok: {type: boolean}}}}
  - {name: b, handler: h, depends_on_steps: [a], when: 'results.a.ok && has(context.plan)'}
";
/// Pieces from which a file looks almost like a template.
const PIECES: &[&str] = &[
    "task_name: ",
    "namespace: ",
    "version: 1.0.0",
    "step_templates:",
    "schema:",
    "  - name: ",
    "    handler_class: ",
    "    depends_on_step: ",
    "    depends_on_steps: [",
    "]",
    "[",
    "{",
    "}",
    ", ",
    ": ",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "? ",
    "&a ",
    "*a",
    "<<: *a",
    "!!binary ",
    "!x ",
    "|\n",
    ">-\n",
    "'",
    "\"",
    "\\u0000",
    "# ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "~",
    "null",
    "true",
    "1e999",
    "-0",
    "0x7fffffffffffffff",
    "9007199254740993",
    "é",
    "😀",
    "\u{feff}",
    "\t",
    "\r",
    "a",
    "default_retry_limit: ",
    "handler_config: ",
    "type: object",
    "overrides: ",
    "- when: ",
    "when: 'has(context.a) && results.a == 1'",
    "context.",
    "${",
    "planner: ",
    "environments: ",
    "result_schema: ",
    "properties: ",
    "$ref: '#'",
    "pattern: '(a+)+$'",
];

#[test]
fn random_yaml_is_a_template_or_has_problems() {
    let mut random = Random::seeded("any yaml");
    let mut valid = 0;
    for n in 0..YAMLS {
        let text = match n % 4 {
            0 => String::from_utf8_lossy(&random.damage(SEED.as_bytes())).into_owned(),
            1 => String::from_utf8_lossy(&random.damage(GOOD.as_bytes())).into_owned(),
            2 => String::from_utf8_lossy(&random.damage(ADAPTING.as_bytes())).into_owned(),
            _ => (0..=random.below(60))
                .map(|_| *random.pick(PIECES))
                .collect(),
        };
        let began = Instant::now();
        let environment = if n % 8 < 4 { "" } else { "production" };
        match Template::parse(&text, environment) {
            Ok(_) => valid += 1,
            Err(problems) => {
                let lines =
                    u32::try_from(text.split('\n').flat_map(|line| line.split('\r')).count())
                        .unwrap();
                assert!(!problems.is_empty(), "{text:?}");
                for p in &problems {
                    assert!(!p.message.is_empty() && p.column >= 1, "{p:?} of {text:?}");
                    assert!(
                        (1..=lines + 1).contains(&p.line),
                        "{p:?} is outside of {text:?}"
                    );
                }
            }
        }
        let took = began.elapsed();
        if took >= READ_LIMIT {
            // Once more, as the machine may have stood still.
            let began = Instant::now();
            let _ = Template::parse(&text, environment);
            assert!(
                began.elapsed() < READ_LIMIT,
                "{took:?} and {:?} for {text:?}",
                began.elapsed()
            );
        }
    }
    assert!(
        valid > YAMLS / 50,
        "only {valid} were templates: nothing but the first mistake was tried"
    );
}

/// A message of any kind; `leases` are those of the steps that this stream was assigned.
fn message(random: &mut Random, leases: &[String]) -> Vec<u8> {
    use base64::Engine as _;
    let lease = match (leases.len(), random.below(4)) {
        (0, _) | (_, 0) => {
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random.bytes(26))
        }
        (n, _) => leases[random.below(n)].clone(),
    };
    let retry_after = Some(prost_types::Duration {
        seconds: 0,
        nanos: 1_000_000,
    });
    let retry = Outcome::RetryableError(RetryableError {
        message: "r".into(),
        retry_after,
        ..Default::default()
    });
    let outcomes = [
        success("{\"a\":1}"),
        success("no JSON"),
        permanent("no", "NO"),
        released(),
        retry,
    ];
    let outcome = (random.below(8) > 0).then(|| random.pick(&outcomes).clone());
    let of = |message| {
        WorkRequest {
            message: Some(message),
        }
        .encode_to_vec()
    };
    match random.below(10) {
        0 => of(Says::Register(registration(&["fuzz"], 3))),
        1 => of(Says::Register(Register {
            held_leases: leases.to_vec(),
            ..registration(&["fuzz"], 3)
        })),
        2 => of(Says::Heartbeat(Heartbeat {})),
        3 => of(Says::Drain(Drain {})),
        4 => {
            let whole = of(Says::Result(StepResult {
                lease_token: lease,
                outcome,
            }));
            random.damage(&whole)
        }
        5 => {
            let (number, length) = (
                u32::try_from(random.below(20)).unwrap() + 1,
                random.below(40),
            );
            field(number, &random.bytes(length))
        }
        _ => of(Says::Result(StepResult {
            lease_token: lease,
            outcome,
        })),
    }
}

/// Collects the leases that arrive within a moment, `first` for the first message; `false` when the
/// server has ended the stream.
async fn listen(stream: &mut Stream, leases: &mut Vec<String>, first: Duration) -> bool {
    let mut moment = first;
    while let Ok(heard) = tokio::time::timeout(moment, stream.hear()).await {
        moment = MOMENT.max(first / 2);
        let Ok(Some(bytes)) = heard else { return false };
        if let Some(Hears::Assignment(step)) = WorkResponse::decode(&*bytes).unwrap().message {
            leases.push(step.lease_token);
        }
    }
    true
}

#[tokio::test]
async fn random_worker_stream_harms_only_itself() {
    let mut target = Target::new().await;
    register(&mut target.bench.client, FUZZ).await;
    let mut tasks = Vec::new();
    for _ in 0..TASKS {
        tasks.push(target.bench.submit("hostile/fuzz", "{}").await);
    }
    let mut random = Random::seeded("any stream");
    for _ in 0..STREAMS {
        let mut leases = Vec::new();
        let begins_well = random.below(5) > 0;
        let first = if begins_well {
            WorkRequest {
                message: Some(Says::Register(registration(&["fuzz"], 3))),
            }
            .encode_to_vec()
        } else {
            message(&mut random, &leases)
        };
        let Ok(mut stream) = target.raw.open(vec![first]).await else {
            continue;
        };
        for n in 0..random.below(12) {
            let moment = if n == 0 && begins_well {
                FIRST_MOMENT
            } else {
                MOMENT
            };
            if !listen(&mut stream, &mut leases, moment).await {
                break;
            }
            stream.say(message(&mut random, &leases)).await;
        }
        // Some close their side in good order, some just drop it.
        if random.below(2) == 0 {
            stream.close();
            let _ = listen(&mut stream, &mut leases, MOMENT).await;
        }
        target.note(true, String::new());
    }
    let mut moved = 0;
    for id in &tasks {
        // Whatever the streams did to it, the task can be cancelled or has ended.
        let _ = target.bench.cancel(id).await;
        let task = target.bench.finished(id).await;
        moved += usize::from(state(&task) != tasker::proto::TaskState::Cancelled);
    }
    assert!(
        moved > 0,
        "no stream ever answered a step well: nothing but refusals was tried"
    );
    invariants(&target.bench.db.connect().await).await;
    target.look().await;
    target.end(STREAMS / 2).await;
}
