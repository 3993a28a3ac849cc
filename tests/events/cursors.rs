//! Cursors: a subscription can resume from each, at any server; an invalid one is refused with the
//! reason.

use std::time::Duration;

use tasker::{
    engine::{
        EventFilter, Events, HealthCell, Loops, MAX_SUBSCRIBERS, Pulses, SubscribeError,
        SubscriptionStart,
    },
    grpc::encoded_event::encode,
    proto::{StartFrom, SubscribeRequest},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::{
    Tail, after, from_beginning,
    support::{
        TestDb,
        server::{Bench, PATIENCE, TestServer, eventually, reason},
    },
};

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h}
";

/// Writes `count` events in one transaction, each with its number as the attempt.
async fn write(db: &TestDb, from: i32, count: i32) {
    let client = db.connect().await;
    let sql = "INSERT INTO events (at, type, attempt) SELECT now(), 'step.started', i FROM generate_series($1::int, $2::int) AS i";
    client
        .execute(sql, &[&from, &(from + count - 1)])
        .await
        .unwrap();
    // Notifies as another server would.
    client
        .execute(
            "SELECT pg_notify($1, $2)",
            &[&db.db().channel(), &format!("{}:e", uuid::Uuid::nil())],
        )
        .await
        .unwrap();
}

async fn refused(bench: &mut Bench, request: SubscribeRequest) -> Status {
    bench
        .client
        .events
        .subscribe(request)
        .await
        .expect_err("refused")
}

#[tokio::test]
async fn subscription_from_each_cursor_receives_the_rest_at_any_server() {
    let mut bench = Bench::new().await;
    write(&bench.db, 1, 16_100).await;
    write(&bench.db, 16_101, 5).await;
    let mut tail = Tail::beginning(&mut bench.client).await;
    let mut cursors = vec![tail.cursor.clone()];
    for number in 1..=16_105 {
        assert_eq!(tail.event().await.attempt, number);
        cursors.push(tail.cursor.clone());
    }
    let other = TestServer::start(&bench.db).await;
    let mut clients = [bench.client.clone(), other.client().await];
    // A page has 16,000 events.
    for delivered in [0, 1, 15_999, 16_000, 16_001, 16_099, 16_100, 16_101, 16_104] {
        for client in &mut clients {
            let rest = Tail::after(client, &cursors[delivered])
                .await
                .events(16_105 - delivered)
                .await;
            let rest: Vec<i32> = rest.into_iter().map(|event| event.attempt).collect();
            assert!(
                rest.iter()
                    .copied()
                    .eq(i32::try_from(delivered).unwrap() + 1..=16_105),
                "{delivered}: {rest:?}"
            );
        }
    }
    let mut last = Tail::after(&mut clients[1], &cursors[16_105]).await;
    write(&bench.db, 16_106, 1).await;
    assert_eq!(last.event().await.attempt, 16_106);
}

#[tokio::test]
async fn live_event_carries_the_cursor_after_it() {
    let mut bench = Bench::new().await;
    write(&bench.db, 1, 10).await;
    let mut tails = vec![
        Tail::begin(&mut bench.client, SubscribeRequest::default())
            .await
            .unwrap(),
        Tail::begin(&mut bench.client, SubscribeRequest::default())
            .await
            .unwrap(),
        Tail::beginning(&mut bench.client).await,
    ];
    let mut late = Tail::beginning(&mut bench.client).await;
    late.events(10).await;
    tails[2].events(10).await;
    tails.push(Tail::after(&mut bench.client, &late.cursor).await);
    let mut from = 11;
    // One by one, a page and a half at once, and several at a time.
    for count in [1, 1, 24_000, 1, 250, 300, 1] {
        write(&bench.db, from, count).await;
        for number in from..from + count {
            for tail in &mut tails {
                assert_eq!(tail.event().await.attempt, number);
            }
        }
        from += count;
        let places: Vec<String> = tails.iter().map(|tail| tail.cursor.clone()).collect();
        write(&bench.db, from, 1).await;
        for (n, place) in places.iter().enumerate() {
            assert_eq!(
                Tail::after(&mut bench.client, place)
                    .await
                    .event()
                    .await
                    .attempt,
                from,
                "subscriber {n}"
            );
        }
        for tail in &mut tails {
            assert_eq!(tail.event().await.attempt, from);
        }
        from += 1;
    }
}

#[tokio::test]
async fn slow_subscriber_misses_nothing_and_delays_no_other() {
    let mut bench = Bench::new().await;
    let mut slow = Tail::begin(&mut bench.client, SubscribeRequest::default())
        .await
        .unwrap();
    let mut fast_client = bench.server.client().await;
    let mut fast = Tail::begin(&mut fast_client, SubscribeRequest::default())
        .await
        .unwrap();
    // More than all buffers on the way can hold: the ring keeps 4 chunks for slow subscribers.
    for round in 0..30 {
        write(&bench.db, round * 1_000 + 1, 1_000).await;
        for number in 1..=1_000 {
            assert_eq!(fast.event().await.attempt, round * 1_000 + number);
        }
    }
    for number in 1..=30_000 {
        assert_eq!(slow.event().await.attempt, number);
    }
}

#[tokio::test]
async fn subscription_without_matching_events_receives_cursors() {
    let mut bench = Bench::new().await;
    let request = SubscribeRequest {
        namespace: "nowhere".into(),
        ..from_beginning()
    };
    let mut tail = Tail::begin(&mut bench.client, request).await.unwrap();
    write(&bench.db, 1, 10).await;
    let first = tail.cursor.clone();
    let message = tail.message().await.unwrap();
    assert!(
        message.event.is_none() && message.cursor != first,
        "{message:?}"
    );
    // The cursor is behind the events that the filter left out.
    let mut rest = Tail::after(&mut bench.client, &message.cursor).await;
    write(&bench.db, 11, 1).await;
    assert_eq!(rest.event().await.attempt, 11);
}

#[tokio::test]
async fn first_subscriber_of_a_server_receives_events_of_other_servers_immediately() {
    let mut bench = Bench::with(ONE).await;
    let db = bench.db.connect().await;
    // One of five servers in time is enough: a busy machine may delay the others.
    let (mut servers, mut times) = (Vec::new(), Vec::new());
    for known in 2..7 {
        let quiet = TestServer::start(&bench.db).await;
        eventually("the servers know of each other", || async {
            let servers: i64 = db
                .query_one("SELECT count(*) FROM servers", &[])
                .await
                .unwrap()
                .get(0);
            (servers == known).then_some(())
        })
        .await;
        let mut tail = Tail::begin(&mut quiet.client().await, SubscribeRequest::default())
            .await
            .unwrap();
        // After the look with which a first subscriber begins; the next look without a notification
        // is more than a second away.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let asked = std::time::Instant::now();
        let id = bench.submit("t/one", "{}").await;
        assert_eq!(tail.event().await.task_id, id);
        times.push(asked.elapsed());
        if asked.elapsed() < Duration::from_millis(900) {
            return;
        }
        servers.push(quiet);
    }
    panic!("it took {times:?} to hear");
}

#[tokio::test]
async fn invalid_cursor_is_refused_with_the_reason() {
    let mut bench = Bench::with(ONE).await;
    bench.submit("t/one", "{}").await;
    let cursor = Tail::beginning(&mut bench.client).await.cursor;
    let elsewhere = TestDb::new().await;
    let foreign = TestServer::start(&elsewhere).await;
    let foreign = Tail::beginning(&mut foreign.client().await).await.cursor;
    let long = "a".repeat(8_193);
    for wrong in [
        "x",
        "é",
        &cursor[1..],
        &format!("{cursor}A"),
        &foreign,
        &long,
    ] {
        let status = refused(&mut bench, after(wrong)).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{wrong}: {status}");
        assert!(
            status
                .message()
                .starts_with("cursor: not a cursor of this cell"),
            "{status}"
        );
    }
}

#[tokio::test]
async fn invalid_subscription_is_refused_with_the_reason() {
    let mut bench = Bench::with(ONE).await;
    bench.submit("t/one", "{}").await;
    let cursor = Tail::beginning(&mut bench.client).await.cursor;
    let types = |types: Vec<i32>| SubscribeRequest {
        types,
        ..Default::default()
    };
    let name = |text: &str| SubscribeRequest {
        namespace: text.into(),
        ..Default::default()
    };
    let table = [
        (
            SubscribeRequest {
                start_from: StartFrom::Now.into(),
                ..after(&cursor)
            },
            "start_from: set beside `cursor`",
        ),
        (
            SubscribeRequest {
                start_from: 9,
                ..Default::default()
            },
            "start_from: 9 is not a start",
        ),
        (types(vec![0]), "types: 0 is not a type"),
        (types(vec![99]), "types: 99 is not a type"),
        (
            types(vec![1; 101]),
            "types: 101 types: expected at most 100",
        ),
        (name("a\nb"), "namespace: expected at most 255 bytes"),
        (
            name(&"a".repeat(256)),
            "namespace: expected at most 255 bytes",
        ),
        (
            SubscribeRequest {
                task_id: "1".into(),
                ..Default::default()
            },
            "task_id: not a UUID",
        ),
    ];
    for (request, message) in table {
        let status = refused(&mut bench, request).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().starts_with(message), "{status}");
    }
    for good in [types(vec![1; 100]), name(&"a".repeat(255)), after(&cursor)] {
        Tail::begin(&mut bench.client, good).await.unwrap();
    }
}

#[tokio::test]
async fn cursor_newer_than_the_database_is_refused() {
    let mut bench = Bench::new().await;
    let cell = tasker::store::event::cell(&bench.db.db()).await.unwrap();
    let seen =
        tasker::domain::event::pg_snapshot::PgSnapshot::new(u64::MAX / 2, Vec::new()).unwrap();
    let cursor = tasker::domain::event::cursor::Cursor::after(0, seen).encode(&cell);
    let status = refused(&mut bench, after(&cursor)).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::OutOfRange, "CURSOR_AHEAD"),
        "{status}"
    );
}

#[tokio::test]
async fn cursor_before_removed_events_is_an_error_also_during_a_stream() {
    let mut bench = Bench::new().await;
    // More than two pages are left when the first 300 are gone.
    write(&bench.db, 1, 33_000).await;
    let start = Tail::beginning(&mut bench.client).await.cursor;
    let mut tail = Tail::beginning(&mut bench.client).await;
    tail.events(10).await;
    let (middle, db) = (tail.cursor.clone(), bench.db.connect().await);
    tail.events(32_990).await;
    let behind = tail.cursor.clone();
    write(&bench.db, 33_001, 1).await;
    let remove = "WITH gone AS (DELETE FROM events WHERE attempt <= 300 RETURNING xid, seq)
                  UPDATE event_horizon SET generation = generation + 1, seq = (SELECT max(seq) + 1 FROM gone),
                         xid = (SELECT (max(xid)::text::bigint + 1)::text::xid8 FROM gone)";
    db.batch_execute(remove).await.unwrap();
    let status = refused(&mut bench, after(&middle)).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::OutOfRange, "CURSOR_TOO_OLD"),
        "{status}"
    );
    // This cursor has no event before it: its subscription begins with the first that is left.
    assert_eq!(
        Tail::after(&mut bench.client, &start)
            .await
            .event()
            .await
            .attempt,
        301
    );
    assert_eq!(
        Tail::beginning(&mut bench.client)
            .await
            .event()
            .await
            .attempt,
        301
    );
    // This cursor is behind all removed events.
    assert_eq!(
        Tail::after(&mut bench.client, &behind)
            .await
            .event()
            .await
            .attempt,
        33_001
    );
    // The live subscription goes on.
    assert_eq!(tail.event().await.attempt, 33_001);

    // A subscriber that reads the log itself gets the error at its next read.
    let events = Events::new(
        bench.db.db(),
        encode,
        HealthCell::default(),
        Loops::default(),
    );
    let mut own = events
        .subscribe(SubscriptionStart::Beginning, EventFilter::default())
        .await
        .unwrap();
    own.next().await.unwrap();
    db.batch_execute(&remove.replace("attempt <= 300", "attempt <= 20000"))
        .await
        .unwrap();
    let error = loop {
        match tokio::time::timeout(PATIENCE, own.next())
            .await
            .expect("an error")
        {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SubscribeError::TooOld), "{error}");
}

#[tokio::test]
async fn subscribers_over_the_limit_are_refused() {
    let db = TestDb::new().await;
    let events = Events::new(db.db(), encode, HealthCell::default(), Loops::default());
    let mut all = Vec::new();
    for _ in 0..MAX_SUBSCRIBERS {
        all.push(
            events
                .subscribe(SubscriptionStart::Now, EventFilter::default())
                .await
                .unwrap(),
        );
    }
    let Err(error) = events
        .subscribe(SubscriptionStart::Now, EventFilter::default())
        .await
    else {
        panic!("one more was taken")
    };
    assert!(matches!(error, SubscribeError::TooMany), "{error}");
    assert_eq!(events.subscribers(), MAX_SUBSCRIBERS);
    all.pop();
    events
        .subscribe(SubscriptionStart::Now, EventFilter::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn stopping_server_ends_subscriptions_with_unavailable() {
    let mut bench = Bench::new().await;
    let mut tail = Tail::begin(&mut bench.client, SubscribeRequest::default())
        .await
        .unwrap();
    bench.server.stop().await;
    let status = loop {
        match tail.message().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test]
async fn event_lag_is_the_age_of_the_delivered_events() {
    let db = TestDb::new().await;
    let (loops, stop) = (Loops::default(), CancellationToken::new());
    let events = Events::new(db.db(), encode, HealthCell::default(), loops);
    let reader = tokio::spawn(events.clone().run_reader(Pulses::default(), stop.clone()));
    let mut one = events
        .subscribe(SubscriptionStart::Now, EventFilter::default())
        .await
        .unwrap();
    let client = db.connect().await;
    let sql = "INSERT INTO events (at, type) VALUES (now() - interval '7 seconds', 'worker.lost')";
    // The reader's own next look, which may come at any moment, finds no event and resets the lag.
    let mut tries = 0;
    loop {
        client.batch_execute(sql).await.unwrap();
        events.written();
        while one.next().await.unwrap().event.is_none() {}
        if events.lag() >= Duration::from_secs(7) {
            break;
        }
        tries += 1;
        assert!(tries < 100, "{:?}", events.lag());
    }
    client
        .batch_execute("INSERT INTO events (at, type) VALUES (now(), 'worker.lost')")
        .await
        .unwrap();
    events.written();
    while one.next().await.unwrap().event.is_none() {}
    eventually("a smaller lag", async || {
        (events.lag() < Duration::from_secs(5)).then_some(())
    })
    .await;
    drop(one);
    assert_eq!(events.lag(), Duration::ZERO);
    stop.cancel();
    reader.await.unwrap();
}
