//! Shrinks a history: drops ever smaller pieces as long as the rest still fails.

use tokio::time::{Duration, Instant, timeout_at};

/// A smaller history that fails, and its failure. `fails` returns the failure of a history, if it
/// fails. Ends when no piece can be dropped any more, or when the time is over.
pub async fn shrink<T: Clone, D, F: Future<Output = Option<D>>>(
    mut ops: Vec<T>,
    mut how: D,
    time: Duration,
    fails: impl Fn(Vec<T>) -> F,
) -> (Vec<T>, D) {
    let end = Instant::now() + time;
    let mut piece = ops.len().div_ceil(2).max(1);
    loop {
        let mut smaller = false;
        let mut at = ops.len();
        // From the end: ops after the failure are dropped first.
        while at > 0 {
            let from = at.saturating_sub(piece);
            let less: Vec<T> = [&ops[..from], &ops[at..]].concat();
            if Instant::now() >= end {
                return (ops, how);
            }
            let Ok(failed) = timeout_at(end, fails(less.clone())).await else {
                return (ops, how);
            };
            if let Some(difference) = failed {
                (ops, how, smaller) = (less, difference, true);
            }
            at = from;
        }
        if piece > 1 {
            piece = piece.div_ceil(2);
        } else if !smaller {
            return (ops, how);
        }
    }
}

#[tokio::test]
async fn shrinking_drops_irrelevant_operations() {
    // Fails if 3 comes before 17 and there is a 40.
    let fails = |ops: Vec<u32>| async move {
        let at = |n| ops.iter().position(|op| *op == n);
        at(3)
            .zip(at(17))
            .is_some_and(|(a, b)| a < b && at(40).is_some())
            .then_some(ops.len())
    };
    let all: Vec<u32> = (0..60).collect();
    let (ops, how) = shrink(all.clone(), 60, Duration::from_secs(10), fails).await;
    assert_eq!((ops, how), (vec![3, 17, 40], 3));
    let (ops, _) = shrink(all.clone(), 60, Duration::ZERO, fails).await;
    assert_eq!(ops, all, "no time, no change");
}
