//! The steps that judging one input may take, counted before the work is done: neither the schema
//! validator nor the expression evaluator can be interrupted.

use std::cell::Cell;
use std::fmt;

/// The most steps for one input: the context of one submit with the template's overrides, the
/// result of one step with the conditions of its children, or the answer of one planner.
pub const MAX_JUDGING_STEPS: u64 = 4_000_000;
/// The error code of an input that would exceed its budget.
pub const TOO_COSTLY: &str = "TOO_COSTLY";

/// The steps of one input, shared by all judgements for it.
#[derive(Debug)]
pub struct Budget {
    allowed: u64,
    spent: Cell<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new()
    }
}

impl Budget {
    /// A budget of [`MAX_JUDGING_STEPS`].
    pub fn new() -> Self {
        Self::of(MAX_JUDGING_STEPS)
    }

    /// A budget of `allowed` steps.
    pub fn of(allowed: u64) -> Self {
        Budget {
            allowed,
            spent: Cell::new(0),
        }
    }

    /// Takes steps off the budget, before they are made.
    ///
    /// # Errors
    /// Fewer steps are left. The budget then stays unchanged.
    pub fn spend(&self, steps: u64) -> Result<(), TooCostly> {
        let needed = self.spent.get().saturating_add(steps);
        if needed > self.allowed {
            return Err(TooCostly {
                what: String::new(),
                needed,
                allowed: self.allowed,
            });
        }
        self.spent.set(needed);
        Ok(())
    }

    /// The steps taken so far.
    pub fn spent(&self) -> u64 {
        self.spent.get()
    }

    /// The steps that are left.
    pub fn left(&self) -> u64 {
        self.allowed - self.spent.get()
    }
}

/// Judging an input would exceed its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooCostly {
    /// The document or expression to be judged, and how to make it cheaper.
    pub what: String,
    /// The steps that are needed at least.
    pub needed: u64,
    /// The steps that are allowed.
    pub allowed: u64,
}

impl TooCostly {
    /// Sets `what`, unless it is set already.
    pub(crate) fn of(mut self, what: impl FnOnce() -> String) -> Self {
        if self.what.is_empty() {
            self.what = what();
        }
        self
    }
}

impl std::error::Error for TooCostly {}

impl fmt::Display for TooCostly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooCostly {
            what,
            needed,
            allowed,
        } = self;
        let what = if what.is_empty() {
            "the document"
        } else {
            what
        };
        write!(
            f,
            "the evaluation of {what} takes at least {needed} steps, and the limit of one input is {allowed}; use a smaller document, or a simpler schema or expression"
        )
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// The longest time of one judgement within its budget: for an optimised build, or for a test
    /// build, which is many times slower, on a loaded machine.
    /// `cargo test --release -p tasker-template --lib cost_ -- --nocapture --test-threads 1` prints
    /// the times.
    const PATIENCE: Duration =
        Duration::from_millis(if cfg!(debug_assertions) { 10_000 } else { 250 });

    /// The steps of the budget at whose edge a test measures: those of an input, or a part of them
    /// in a test build.
    pub const EDGE: u64 = MAX_JUDGING_STEPS / if cfg!(debug_assertions) { 50 } else { 1 };

    /// How often a search halves its distance to the edge of the budget: an optimised build
    /// measures at the edge, a test build only near it.
    pub const ROUNDS: std::ops::Range<usize> = 0..if cfg!(debug_assertions) { 1 } else { 5 };

    /// Fails if a judgement that started at `began` took longer than `PATIENCE`.
    pub fn in_time(began: Instant, budget: &Budget, what: &dyn fmt::Display) {
        let took = began.elapsed();
        println!("{:>9.1?} {:>9} steps: {what}", took, budget.spent());
        assert!(took < PATIENCE, "{what}: {took:?}");
    }

    #[test]
    fn budget_refuses_one_step_over_its_limit() {
        let budget = Budget::of(10);
        assert_eq!(
            (budget.spend(4), budget.spend(6), budget.left()),
            (Ok(()), Ok(()), 0)
        );
        let budget = Budget::of(10);
        assert_eq!(budget.spend(4), Ok(()));
        let error = budget.spend(7).expect_err("one too many");
        assert_eq!((error.needed, error.allowed, budget.spent()), (11, 10, 4));
        assert!(
            error
                .of(|| "x".into())
                .to_string()
                .starts_with("the evaluation of x takes at least 11 steps")
        );
        assert!(budget.spend(u64::MAX).is_err());
    }
}
