//! Streams that never send a message, or stop in the middle of one.

use tasker::proto::{Drain, Heartbeat};
use tonic::Code::{self, FailedPrecondition, InvalidArgument, ResourceExhausted};

use super::{Says, end, register, says};
use crate::{
    raw::{WORK, frame, framed},
    target::Target,
};

/// Streams that end inside a frame, or with an invalid frame.
async fn cut(target: &mut Target, hello: &[u8], beat: &[u8]) {
    for (case, tail, code, expected) in [
        (
            "a frame cut in its head",
            vec![0, 0],
            InvalidArgument,
            "EOF",
        ),
        (
            "a frame cut in its message",
            frame(0, 100, beat),
            InvalidArgument,
            "EOF",
        ),
        (
            "a flag without a codec",
            frame(1, beat.len(), beat),
            InvalidArgument,
            "compressed",
        ),
        (
            "flag 9",
            frame(9, beat.len(), beat),
            InvalidArgument,
            "compression flag",
        ),
        (
            "a frame of 4 GiB",
            frame(0, u32::MAX as usize, beat),
            ResourceExhausted,
            "16777216",
        ),
    ] {
        let status = target
            .raw
            .post(WORK, &[], [framed(hello), framed(beat), tail].concat())
            .await;
        target
            .check(case, Err::<(), _>(status), code, expected)
            .await;
    }
}

/// Half closed in good order: the server closes its half.
async fn half_closed(target: &mut Target, hello: &[u8], beat: &[u8]) {
    for last in [
        vec![],
        vec![beat.to_vec()],
        vec![says(Says::Drain(Drain {}))],
    ] {
        let mut stream = target
            .raw
            .open([vec![hello.to_vec()], last].concat())
            .await
            .unwrap();
        stream.close();
        let status = stream.end().await;
        target.note(
            status.code() == Code::Ok,
            format!("half closed: {status:?}"),
        );
    }
}

/// Reset without a message, in every phase.
async fn reset(target: &mut Target, hello: &[u8], beat: &[u8]) {
    for messages in [
        vec![],
        vec![hello.to_vec()],
        vec![hello.to_vec(), beat.to_vec()],
    ] {
        let raw = target.raw.clone();
        let stream =
            tokio::time::timeout(std::time::Duration::from_millis(100), raw.open(messages)).await;
        drop(stream);
        target.note(true, String::new());
    }
}

#[tokio::test]
async fn silent_or_interrupted_streams_are_closed() {
    let mut target = Target::new().await;
    // Each takes ten seconds, so all of them run at once.
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
    cut(&mut target, &hello, &beat).await;
    half_closed(&mut target, &hello, &beat).await;
    reset(&mut target, &hello, &beat).await;
    while let Some(status) = silent.join_next().await {
        let says = "none arrived in time";
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
