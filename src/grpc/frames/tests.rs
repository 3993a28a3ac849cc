//! Compression, time limits and memory of both directions.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::stream;
use http_body::Body as HttpBody;
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::grpc::{
    gzip::MIN_BYTES,
    room::{MAX_BODIES_BYTES, MAX_STREAMS_BYTES, Room},
};

fn room() -> Room {
    Room::new(Arc::default())
}

fn body(chunks: Vec<Bytes>) -> Body {
    Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, axum::Error>)))
}

async fn all(body: impl HttpBody<Data = Bytes, Error: std::fmt::Debug> + Unpin) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn compressed_response_decompresses_to_the_original() {
    let messages =
        [0, 1, MIN_BYTES - 1, MIN_BYTES, 300_000, 3].map(|n| framed(false, &vec![b'x'; n]));
    let plain = Bytes::from(messages.concat());
    // In one chunk, one per chunk, and cut at any position.
    let sent = all(ResponseBody::new(body(vec![plain.clone()]))).await;
    assert_eq!(sent, all(ResponseBody::new(body(messages.to_vec()))).await);
    assert!(sent.len() < 5_000, "{}", sent.len());
    for cut in [1, 7, 1_000, sent.len()] {
        let chunks: Vec<Bytes> = sent.chunks(cut).map(Bytes::copy_from_slice).collect();
        for is_stream in [false, true] {
            let received = RequestBody::new(body(chunks.clone()), &room(), is_stream, true);
            assert_eq!(all(received).await, plain, "{cut} {is_stream}");
        }
    }
}

#[tokio::test]
async fn incompressible_message_is_sent_uncompressed() {
    let noise: Vec<u8> = (0..2_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let message = framed(false, &noise);
    let sent = all(ResponseBody::new(body(vec![message.clone()]))).await;
    assert!(sent == message || sent.len() < message.len());
    // An incomplete message passes unchanged.
    let half = message.slice(..100);
    assert_eq!(all(ResponseBody::new(body(vec![half.clone()]))).await, half);
}

#[tokio::test(start_paused = true)]
async fn slow_body_fails_at_its_time_limit() {
    let message = framed(false, &[0; 1_000]);
    let trickle = |is_stream: bool, pause: Duration| {
        let bytes: Vec<Bytes> = message.chunks(1).map(Bytes::copy_from_slice).collect();
        let chunks = stream::unfold(bytes.into_iter(), move |mut bytes| async move {
            tokio::time::sleep(pause).await;
            Some((Ok::<_, axum::Error>(bytes.next()?), bytes))
        });
        RequestBody::new(Body::from_stream(chunks), &room(), is_stream, false)
    };
    for is_stream in [false, true] {
        assert_eq!(
            all(trickle(is_stream, Duration::from_millis(19)))
                .await
                .len(),
            message.len()
        );
        let started = Instant::now();
        let status = trickle(is_stream, Duration::from_millis(30))
            .collect()
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(
            (19..22).contains(&started.elapsed().as_secs()),
            "{:?}",
            started.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn stream_may_pause_between_messages() {
    let message = framed(false, b"hello");
    let chunks = stream::unfold(0, move |n| {
        let message = message.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(300)).await;
            (n < 3).then_some((Ok::<_, axum::Error>(message), n + 1))
        }
    });
    let received = RequestBody::new(Body::from_stream(chunks), &room(), true, false);
    assert_eq!(all(received).await.len(), 30);
}

#[tokio::test]
async fn message_without_room_is_refused() {
    let room = room();
    let others = room.for_body();
    others.more(MAX_BODIES_BYTES - 100).unwrap();
    let received = |bytes: usize| {
        RequestBody::new(body(vec![Bytes::from(vec![0; bytes])]), &room, false, false)
    };
    assert_eq!(all(received(100)).await.len(), 100);
    let status = received(101).collect().await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    // The bound also covers the decompressed size.
    let sent = all(ResponseBody::new(body(vec![framed(false, &[0; 5_000])]))).await;
    assert!(sent.len() < 100);
    let status = RequestBody::new(body(vec![sent]), &room, false, true)
        .collect()
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

/// The bytes that the streams have taken of their room.
fn taken(room: &Room) -> usize {
    let probe = room.for_stream();
    let mut free = 0;
    for bit in (0..usize::BITS - 1).rev() {
        if probe.more(1 << bit).is_ok() {
            free += 1 << bit;
        }
    }
    MAX_STREAMS_BYTES - free
}

#[tokio::test]
async fn compressed_message_of_a_stream_counts_until_it_is_handed_on() {
    const PLAIN: usize = 4 << 20;
    let room = room();
    let packed = all(ResponseBody::new(body(vec![framed(
        false,
        &vec![0; PLAIN],
    )])))
    .await;
    let small = framed(false, b"hello");
    // The second message arrives with the first, and the third only in part.
    let chunk = [&packed[..], &small, &small[..7]].concat();
    let mut received = RequestBody::new(body(vec![Bytes::from(chunk.clone())]), &room, true, true);
    let mut most = 0;
    let first = std::future::poll_fn(|cx| {
        let frame = std::pin::Pin::new(&mut received).poll_frame(cx);
        most = most.max(taken(&room));
        frame
    })
    .await;
    assert_eq!(
        first.unwrap().unwrap().into_data().unwrap().len(),
        HEADER_BYTES + PLAIN
    );
    assert_eq!(
        most,
        chunk.len() + PLAIN,
        "the compressed bytes and the decompressed ones"
    );
    assert_eq!(taken(&room), small.len() + 7, "what is left in the buffer");
    let second = received
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!((second, taken(&room)), (small, 7));
    drop(received);
    assert_eq!(taken(&room), 0);
}
