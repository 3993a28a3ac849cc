//! Worker streams that say the wrong thing, at the wrong time, or nothing.

use prost::Message as _;
use tasker::proto::{
    Drain, Heartbeat, Register, ResultStatus, StepResult, WorkRequest, WorkResponse,
    step_result::Outcome, work_request::Message as Says, work_response::Message as Hears,
};
use tonic::{
    Code::{self, FailedPrecondition, InvalidArgument, ResourceExhausted},
    Status,
};

use crate::{
    random::Random,
    raw::{Raw, Stream, WORK, field, frame, framed},
    support::worker::{permanent, registration, released, success},
    target::Target,
};

fn says(message: Says) -> Vec<u8> {
    WorkRequest {
        message: Some(message),
    }
    .encode_to_vec()
}

fn register() -> Register {
    registration(&["nobody's"], 4)
}

fn result(lease_token: &str, outcome: Option<Outcome>) -> Vec<u8> {
    says(Says::Result(StepResult {
        lease_token: lease_token.into(),
        outcome,
    }))
}

/// What has the form of a lease token.
fn token(random: &mut Random) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random.bytes(26))
}

/// What a stream with these messages ends with.
async fn end(raw: &Raw, messages: Vec<Vec<u8>>) -> Status {
    match raw.open(messages).await {
        Ok(mut stream) => stream.end().await,
        Err(status) => status,
    }
}

async fn refuses(target: &mut Target, case: &str, messages: Vec<Vec<u8>>, code: Code, says: &str) {
    let status = end(&target.raw, messages).await;
    target.check(case, Err::<(), _>(status), code, says).await;
}

#[tokio::test]
async fn first_messages_that_do_not_register() {
    let mut target = Target::new().await;
    let token = token(&mut Random::seeded("first"));
    let order = "the first message must be `register`";
    let cases: Vec<(&str, Vec<u8>, Code, &str)> = vec![
        ("nothing in it", vec![], FailedPrecondition, order),
        (
            "an unknown message",
            field(99, b"hello"),
            FailedPrecondition,
            order,
        ),
        (
            "a heartbeat",
            says(Says::Heartbeat(Heartbeat {})),
            FailedPrecondition,
            order,
        ),
        (
            "a drain",
            says(Says::Drain(Drain {})),
            FailedPrecondition,
            order,
        ),
        (
            "a result",
            result(&token, Some(success("1"))),
            FailedPrecondition,
            order,
        ),
        (
            "a malformed result",
            result("x", None),
            FailedPrecondition,
            order,
        ),
        ("an unfinished tag", vec![0x80], InvalidArgument, "protobuf"),
        ("text", b"hello".to_vec(), InvalidArgument, "protobuf"),
        (
            "invalid UTF-8",
            field(1, &field(1, b"\xff")),
            InvalidArgument,
            "UTF-8",
        ),
        (
            "a register that is text",
            field(1, b"\xff\xff\xff"),
            InvalidArgument,
            "protobuf",
        ),
        ("17 MiB", vec![0; 17 << 20], ResourceExhausted, "16777216"),
    ];
    for (case, message, code, expected) in cases {
        refuses(&mut target, case, vec![message.clone()], code, expected).await;
        let later = vec![message, says(Says::Register(register()))];
        refuses(
            &mut target,
            &format!("{case}, then a register"),
            later,
            code,
            expected,
        )
        .await;
    }
    target.end(22).await;
}

#[tokio::test]
async fn registers_out_of_bounds() {
    let mut target = Target::new().await;
    let many = |n: usize| (0..n).map(|i| format!("h{i}")).collect::<Vec<_>>();
    let labels = |n: usize| many(n).into_iter().map(|l| (l.clone(), l)).collect();
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    let long = "x".repeat(256);
    let mut cases: Vec<(Register, &str)> = vec![
        (
            Register {
                name: String::new(),
                ..register()
            },
            "register.name: empty",
        ),
        (
            Register {
                name: long.clone(),
                ..register()
            },
            "register.name: expected at most 255",
        ),
        (
            Register {
                name: "a\0b".into(),
                ..register()
            },
            "control characters",
        ),
        (
            Register {
                name: "x".repeat(10 << 20),
                ..register()
            },
            "register.name: expected at most 255",
        ),
        (
            Register {
                build_id: long.clone(),
                ..register()
            },
            "register.build_id",
        ),
        (
            Register {
                build_id: "\n".into(),
                ..register()
            },
            "register.build_id",
        ),
        (
            Register {
                handlers: vec![],
                ..register()
            },
            "register.handlers: 0 given: expected 1 to 1000",
        ),
        (
            Register {
                handlers: many(1_001),
                ..register()
            },
            "register.handlers: 1001 given",
        ),
        (
            Register {
                handlers: many(200_000),
                ..register()
            },
            "register.handlers: 200000 given",
        ),
        (
            Register {
                handlers: vec![String::new()],
                ..register()
            },
            "register.handlers: empty",
        ),
        (
            Register {
                handlers: vec!["a".into(), String::new()],
                ..register()
            },
            "register.handlers: empty",
        ),
        (
            Register {
                handlers: vec![long.clone()],
                ..register()
            },
            "register.handlers: expected at most 255",
        ),
        (
            Register {
                handlers: vec!["\0".into()],
                ..register()
            },
            "control characters",
        ),
        (
            Register {
                namespaces: many(101),
                ..register()
            },
            "register.namespaces: 101 given",
        ),
        (
            Register {
                namespaces: vec![String::new()],
                ..register()
            },
            "register.namespaces: empty",
        ),
        (
            Register {
                namespaces: vec!["\u{7f}".into()],
                ..register()
            },
            "control characters",
        ),
        (
            Register {
                labels: labels(65),
                ..register()
            },
            "register.labels: 65 given",
        ),
        (
            Register {
                labels: label("", "v"),
                ..register()
            },
            "register.labels: empty",
        ),
        (
            Register {
                labels: label("k", &long),
                ..register()
            },
            "register.labels",
        ),
        (
            Register {
                labels: label("k\0", "v"),
                ..register()
            },
            "register.labels",
        ),
        (
            Register {
                held_leases: vec![String::new()],
                ..register()
            },
            "not a lease token",
        ),
        (
            Register {
                held_leases: vec!["x".into(); 40_001],
                ..register()
            },
            "register.held_leases: 40001 given",
        ),
    ];
    for slots in [0, -1, 10_001, 1_000_000, i32::MAX, i32::MIN] {
        let register = Register {
            max_concurrent_steps: slots,
            ..register()
        };
        cases.push((register, "is out of bounds: expected 1 to 10000"));
    }
    for id in [
        "x",
        "0",
        " ",
        "\0",
        "0190b5a0-7b3c-7def-8123-456789abcdeg",
        &"f".repeat(100_000),
    ] {
        let register = Register {
            previous_worker_id: id.into(),
            ..register()
        };
        cases.push((register, "register.previous_worker_id: not a worker id"));
    }
    for (register, expected) in cases {
        let case = format!("{expected}: {:.80?}", register.name);
        refuses(
            &mut target,
            &case,
            vec![says(Says::Register(register))],
            InvalidArgument,
            expected,
        )
        .await;
    }
    let workers = target
        .bench
        .db
        .connect()
        .await
        .query_one("SELECT count(*) FROM workers", &[])
        .await
        .unwrap();
    assert_eq!(workers.get::<_, i64>(0), 0, "nobody registered");
    target.end(34).await;
}

#[tokio::test]
async fn later_messages_that_are_wrong() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("later");
    let token = token(&mut random);
    let mut cases: Vec<(String, Vec<u8>, Code, &str)> = vec![
        (
            "a second register".into(),
            says(Says::Register(register())),
            FailedPrecondition,
            "`register` comes once",
        ),
        (
            "nothing in it".into(),
            vec![],
            InvalidArgument,
            "message: empty",
        ),
        (
            "an unknown message".into(),
            field(99, b"x"),
            InvalidArgument,
            "message: empty",
        ),
        (
            "an unfinished tag".into(),
            vec![0x80],
            InvalidArgument,
            "protobuf",
        ),
        (
            "text".into(),
            b"hello".to_vec(),
            InvalidArgument,
            "protobuf",
        ),
        (
            "invalid UTF-8 in a token".into(),
            field(2, &field(1, b"\xff")),
            InvalidArgument,
            "UTF-8",
        ),
        (
            "invalid UTF-8 in a result".into(),
            field(2, &field(2, &field(1, b"\xed\xa0\x80"))),
            InvalidArgument,
            "UTF-8",
        ),
        (
            "17 MiB".into(),
            vec![0; 17 << 20],
            ResourceExhausted,
            "16777216",
        ),
        (
            "a result of 17 MiB".into(),
            result(&token, Some(success(&"1".repeat(17 << 20)))),
            ResourceExhausted,
            "16777216",
        ),
    ];
    let mut malformed: Vec<String> = [
        "",
        " ",
        "x",
        "\0",
        "null",
        "é",
        "0190b5a0-7b3c-7def-8123-456789abcdef",
    ]
    .map(String::from)
    .to_vec();
    malformed.extend([
        token[1..].to_owned(),
        format!("{token}A"),
        format!("{token}="),
        token.repeat(2),
        "A".repeat(1 << 20),
    ]);
    for _ in 0..25 {
        let mut chars: Vec<char> = token.chars().collect();
        let at = random.below(chars.len());
        chars[at] = *random.pick(&['+', '/', '=', ' ', '.', '\n', '\0', 'é', '😀']);
        malformed.push(chars.into_iter().collect());
    }
    for bad in malformed {
        let outcomes = [success("1"), permanent("no", ""), released()];
        let outcome = random.pick(&outcomes).clone();
        let case = format!("token {bad:.40?}");
        cases.push((
            case,
            result(&bad, Some(outcome)),
            InvalidArgument,
            "result.lease_token: not a lease token",
        ));
    }
    for (case, message, code, expected) in cases {
        let messages = vec![
            says(Says::Register(register())),
            says(Says::Heartbeat(Heartbeat {})),
            message,
        ];
        refuses(&mut target, &case, messages, code, expected).await;
    }
    target.end(43).await;
}

/// The next message that is not `registered`.
async fn heard(stream: &mut Stream) -> Hears {
    loop {
        let bytes = stream.hear().await.unwrap().expect("the stream goes on");
        match WorkResponse::decode(&*bytes).unwrap().message.unwrap() {
            Hears::Registered(_) => {}
            other => return other,
        }
    }
}

#[tokio::test]
async fn forged_leases() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("forged");
    let id = target.bench.submit("hostile/good", "{}").await;
    target.look().await;
    let mut stream = target
        .raw
        .open(vec![says(Says::Register(register()))])
        .await
        .unwrap();
    let of_task = |step: i16, nonce: u64| {
        use base64::Engine as _;
        let task_id: uuid::Uuid = id.parse().unwrap();
        let bytes = [
            &task_id.as_bytes()[..],
            &step.to_be_bytes(),
            &nonce.to_be_bytes(),
        ]
        .concat();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let mut tokens: Vec<String> = (0..60).map(|_| token(&mut random)).collect();
    for step in [0, 1, -1, i16::MAX, i16::MIN, 999] {
        tokens.extend([0, 1, u64::MAX, random.number()].map(|nonce| of_task(step, nonce)));
    }
    for token in &tokens {
        let outcomes = [
            success("1"),
            success("not JSON"),
            permanent("no", "NO"),
            released(),
        ];
        stream
            .say(result(token, Some(random.pick(&outcomes).clone())))
            .await;
        let Hears::Ack(ack) = heard(&mut stream).await else {
            panic!("expected an ack")
        };
        let stale = ack.status() == ResultStatus::Stale && ack.lease_token == *token;
        let answer: Result<(), Status> = if stale {
            Err(Status::aborted("stale"))
        } else {
            Ok(())
        };
        target.check(token, answer, Code::Aborted, "stale").await;
    }
    // Held by nobody: each is answered with a cancel, and none is kept.
    let held = Register {
        held_leases: tokens.clone(),
        previous_worker_id: uuid::Uuid::nil().to_string(),
        ..register()
    };
    let mut other = target
        .raw
        .open(vec![says(Says::Register(held))])
        .await
        .unwrap();
    for _ in &tokens {
        assert!(matches!(heard(&mut other).await, Hears::Cancel(_)));
    }
    target
        .check(
            "held",
            Err::<(), _>(Status::aborted("cancelled")),
            Code::Aborted,
            "",
        )
        .await;
    target.bench.cancel(&id).await.unwrap();
    target.end(80).await;
}

#[tokio::test]
async fn streams_that_never_speak_or_stop_in_the_middle() {
    let mut target = Target::new().await;
    // Ten seconds each, so all of them at once.
    let mut silent = tokio::task::JoinSet::new();
    for _ in 0..25 {
        let raw = target.raw.clone();
        silent.spawn(async move { end(&raw, vec![]).await });
    }
    let order = "the first message must be `register`";
    let status = target.raw.post(WORK, &[], vec![]).await;
    target
        .check(
            "closed without a word",
            Err::<(), _>(status),
            FailedPrecondition,
            order,
        )
        .await;
    let hello = says(Says::Register(register()));
    let beat = says(Says::Heartbeat(Heartbeat {}));
    for (case, tail, code, expected) in [
        (
            "a frame cut in its head",
            vec![0, 0],
            InvalidArgument,
            "EOF",
        ),
        (
            "a frame cut in its message",
            frame(0, 100, &beat),
            InvalidArgument,
            "EOF",
        ),
        (
            "a flag without a codec",
            frame(1, beat.len(), &beat),
            InvalidArgument,
            "compressed",
        ),
        (
            "flag 9",
            frame(9, beat.len(), &beat),
            InvalidArgument,
            "compression flag",
        ),
        (
            "a frame of 4 GiB",
            frame(0, u32::MAX as usize, &beat),
            ResourceExhausted,
            "16777216",
        ),
    ] {
        let status = target
            .raw
            .post(WORK, &[], [framed(&hello), framed(&beat), tail].concat())
            .await;
        target
            .check(case, Err::<(), _>(status), code, expected)
            .await;
    }
    // Half closed in good order: the server closes its half.
    for last in [
        vec![],
        vec![beat.clone()],
        vec![says(Says::Drain(Drain {}))],
    ] {
        let mut stream = target
            .raw
            .open([vec![hello.clone()], last].concat())
            .await
            .unwrap();
        stream.close();
        let status = stream.end().await;
        target.note(
            status.code() == Code::Ok,
            format!("half closed: {status:?}"),
        );
    }
    // Reset without a word, in every phase.
    for messages in [vec![], vec![hello.clone()], vec![hello.clone(), beat]] {
        let raw = target.raw.clone();
        let stream =
            tokio::time::timeout(std::time::Duration::from_millis(100), raw.open(messages)).await;
        drop(stream);
        target.note(true, String::new());
    }
    while let Some(status) = silent.join_next().await {
        let says = "none came in time";
        target
            .check(
                "silent",
                Err::<(), _>(status.unwrap()),
                FailedPrecondition,
                says,
            )
            .await;
    }
    target.end(37).await;
}
