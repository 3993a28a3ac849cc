//! Detects a batch that keeps failing the same way although the database is available: one of its
//! inputs is the cause.

use crate::store::StoreError;

/// Consecutive equal failures of a single input before it is given up. A batch is halved at the
/// second.
const TIMES_ALONE: usize = 4;

/// The last failure and the number of times it was repeated.
#[derive(Default)]
pub(super) struct Failing {
    way: Option<String>,
    times: usize,
}

impl Failing {
    /// Resets the counter after a commit.
    pub fn passed(&mut self) {
        *self = Self::default();
    }

    /// Records a transient failure of a batch of `inputs` inputs. Returns true if another try of
    /// the whole batch would fail again. Failures of the database itself (away, restarting) never
    /// count.
    pub fn again(&mut self, error: &StoreError, inputs: usize) -> bool {
        let way = error.way().map(str::to_owned);
        self.times = if way.is_some() && way == self.way {
            self.times + 1
        } else {
            usize::from(way.is_some())
        };
        self.way = way;
        self.times >= if inputs > 1 { 2 } else { TIMES_ALONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> StoreError {
        StoreError::Connection("no answer in time".into())
    }

    #[test]
    fn unavailable_database_blames_no_input() {
        let mut failing = Failing::default();
        assert!((0..100).all(|_| !failing.again(&away(), 1) && !failing.again(&away(), 9)));
    }
}
