//! Worker streams with wrong messages, messages at the wrong time, or none.

mod halting;
mod registers;

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
    raw::{Raw, Stream, field},
    support::{
        random::Random,
        worker::{permanent, registration, released, success},
    },
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

/// A text with the form of a lease token.
fn token(random: &mut Random) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random.bytes(26))
}

/// The status with which a stream with these messages ends.
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
async fn first_messages_other_than_register_are_refused() {
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

/// The case, the message, and the expected code and text.
type Later = (String, Vec<u8>, Code, &'static str);

fn messages_out_of_place(token: &str) -> Vec<Later> {
    vec![
        (
            "a second register".into(),
            says(Says::Register(register())),
            FailedPrecondition,
            "`register` is allowed once",
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
            result(token, Some(success(&"1".repeat(17 << 20)))),
            ResourceExhausted,
            "16777216",
        ),
    ]
}

/// Texts that do not have, or not quite, the form of a lease token.
fn no_tokens(token: &str, random: &mut Random) -> Vec<String> {
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
    malformed
}

#[tokio::test]
async fn invalid_later_messages_are_refused() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("later");
    let token = token(&mut random);
    let mut cases = messages_out_of_place(&token);
    for bad in no_tokens(&token, &mut random) {
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
async fn forged_leases_are_stale() {
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
    // No worker holds these leases: the server answers each with a cancel and keeps none.
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
