//! Turns are fair, and evaluations that do not end cost a bounded number of threads.

use std::sync::mpsc;

use super::*;
use crate::engine::evaluate::threads::MAX_ABANDONED;

fn judge() -> EvaluationPool {
    EvaluationPool::with(Arc::default(), Loops::default(), Duration::from_millis(50))
}

/// Blocks evaluations until the sender is dropped.
fn gate() -> (mpsc::Sender<()>, Arc<std::sync::Mutex<mpsc::Receiver<()>>>) {
    let (open, shut) = mpsc::channel();
    (open, Arc::new(std::sync::Mutex::new(shut)))
}

#[tokio::test]
async fn evaluation_returns_its_verdict_and_a_panic_is_an_error() {
    let judge = EvaluationPool::new(Arc::default(), Loops::default());
    assert_eq!(judge.run(judge.turn("a").await, || 7).await, Ok(7));
    let panics = || -> u8 { panic!("on purpose") };
    assert_eq!(
        judge.run(judge.turn("a").await, panics).await,
        Err(NoVerdict::Failed)
    );
    assert_eq!(
        judge.run(judge.turn("a").await, || 8).await,
        Ok(8),
        "the thread lives"
    );
}

#[tokio::test]
async fn evaluations_alternate_between_namespaces() {
    let turns = Turns::new(1);
    let first = turns.take("a").await;
    let (says, mut hears) = tokio::sync::mpsc::unbounded_channel();
    for (n, namespace) in ["a", "a", "a", "b", "c", "b"].into_iter().enumerate() {
        let (task, says) = (turns.clone(), says.clone());
        tokio::spawn(async move {
            let turn = task.take(namespace).await;
            says.send((namespace, n)).unwrap();
            drop(turn);
        });
        while turns.waiting() <= n {
            tokio::task::yield_now().await;
        }
    }
    drop((first, says));
    let mut order = Vec::new();
    while let Some(next) = hears.recv().await {
        order.push(next);
    }
    assert_eq!(
        order,
        [("a", 0), ("b", 3), ("c", 4), ("a", 1), ("b", 5), ("a", 2)]
    );
    assert_eq!(turns.waiting(), 0);
}

#[tokio::test]
async fn turn_of_a_cancelled_caller_passes_to_the_next() {
    let turns = Turns::new(1);
    let first = turns.take("a").await;
    let gone = tokio::spawn({
        let turns = turns.clone();
        async move { drop(turns.take("a").await) }
    });
    while turns.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    let _ = gone.await;
    drop(first);
    drop(turns.take("b").await);
}

#[tokio::test]
async fn endless_evaluation_fails_its_input_and_its_thread_is_replaced_up_to_a_bound() {
    let judge = judge();
    let (open, shut) = gate();
    let blocks = || {
        let shut = Arc::clone(&shut);
        // A thread that waits for the lock blocks like one that waits for the message.
        move || drop(shut.lock().map(|shut| shut.recv()))
    };
    for n in 1..=MAX_ABANDONED {
        assert_eq!(
            judge.run(judge.turn("a").await, blocks()).await,
            Err(NoVerdict::TooLong)
        );
        assert_eq!(judge.0.threads.counts().1, n);
        assert_eq!(
            judge.run(judge.turn("b").await, move || n).await,
            Ok(n),
            "the others go on"
        );
    }
    for _ in 0..THREADS {
        assert!(!judge.is_stuck());
        assert_eq!(
            judge.run(judge.turn("a").await, blocks()).await,
            Err(NoVerdict::TooLong)
        );
    }
    assert!(judge.is_stuck());
    assert_eq!(
        judge.0.threads.counts(),
        (THREADS, MAX_ABANDONED, THREADS),
        "no more threads are started"
    );
    let waits = tokio::spawn({
        let judge = judge.clone();
        async move { judge.run(judge.turn("b").await, || 1).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waits.is_finished());
    drop(open);
    assert_eq!(
        waits.await.unwrap(),
        Ok(1),
        "a thread that comes back goes on"
    );
    while judge.0.threads.counts().1 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!judge.is_stuck());
}

#[tokio::test]
async fn time_of_a_stopped_process_counts_in_part() {
    let limit = Duration::from_millis(800);
    let judge = EvaluationPool::with(Arc::default(), Loops::default(), limit);
    let (open, shut) = gate();
    let judged = tokio::spawn({
        let judge = judge.clone();
        async move {
            let turn = judge.turn("a").await;
            judge
                .run(turn, move || drop(shut.lock().map(|shut| shut.recv())))
                .await
        }
    });
    while judge.0.threads.counts().0 == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(limit / 16).await;
    // No timer of this runtime fires meanwhile.
    std::thread::sleep(limit + limit / 4);
    tokio::time::sleep(limit / 8).await;
    drop(open);
    assert_eq!(judged.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn evaluation_threads_end_with_their_owner() {
    let judge = judge();
    judge.run(judge.turn("a").await, || ()).await.unwrap();
    let threads = Arc::downgrade(&judge.0.threads);
    drop(judge);
    while threads.upgrade().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
