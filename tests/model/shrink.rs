//! Shrinks a history: drops ever smaller pieces as long as the rest still fails.

use tokio::time::{Duration, Instant, timeout_at};

/// A smaller history that fails, and its failure. `fails` returns the failure of a history, if it
/// fails. Ends when neither a piece nor two ops can be dropped any more, or when the time is over.
pub async fn shrink<T: Clone, D, F: Future<Output = Option<D>>>(
    ops: Vec<T>,
    how: D,
    time: Duration,
    fails: impl Fn(Vec<T>) -> F,
) -> (Vec<T>, D) {
    let mut least = Least {
        ops,
        how,
        end: Instant::now() + time,
        fails,
    };
    let mut piece = least.ops.len().div_ceil(2).max(1);
    while !least.is_over() {
        let smaller = least.drop_pieces(piece).await;
        if piece > 1 {
            piece = piece.div_ceil(2);
        } else if !smaller && !least.drop_a_pair().await {
            break;
        }
    }
    (least.ops, least.how)
}

/// The least history so far that fails.
struct Least<T, D, F> {
    ops: Vec<T>,
    how: D,
    end: Instant,
    fails: F,
}

impl<T: Clone, D, F: Future<Output = Option<D>>, Fails: Fn(Vec<T>) -> F> Least<T, D, Fails> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Goes on with `less` if that fails too.
    async fn try_less(&mut self, less: Vec<T>) -> bool {
        match timeout_at(self.end, (self.fails)(less.clone())).await {
            Ok(Some(difference)) => {
                (self.ops, self.how) = (less, difference);
                true
            }
            Ok(None) | Err(_) => false,
        }
    }

    /// Drops each piece of this length that the failure does not need. True if one was dropped.
    async fn drop_pieces(&mut self, piece: usize) -> bool {
        let mut smaller = false;
        let mut at = self.ops.len();
        // From the end: ops after the failure are dropped first.
        while at > 0 && !self.is_over() {
            let from = at.saturating_sub(piece);
            let less = [&self.ops[..from], &self.ops[at..]].concat();
            smaller |= self.try_less(less).await;
            at = from;
        }
        smaller
    }

    /// Drops two ops that the failure needs only together: an op names a task or an attempt by its
    /// number, so without one op the next refers to another. True if two were dropped.
    async fn drop_a_pair(&mut self) -> bool {
        for last in (1..self.ops.len()).rev() {
            for first in (0..last).rev() {
                if self.is_over() {
                    return false;
                }
                let mut less = self.ops.clone();
                less.remove(last);
                less.remove(first);
                if self.try_less(less).await {
                    return true;
                }
            }
        }
        false
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

#[tokio::test]
async fn shrinking_drops_two_operations_that_are_needed_only_together() {
    // Fails with 7, and with 2 and 9 together or not at all.
    let fails = |ops: Vec<u32>| async move {
        let has = |n| ops.contains(&n);
        (has(7) && has(2) == has(9)).then_some(ops.len())
    };
    let (ops, how) = shrink((0..11).collect(), 11, Duration::from_secs(10), fails).await;
    assert_eq!((ops, how), (vec![7], 1));
}
