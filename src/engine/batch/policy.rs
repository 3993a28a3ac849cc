//! What to do after a failed transaction. Pure.

use std::time::Duration;

use crate::store::{StoreError, collision_metrics::Collision};

/// First and longest back-off between tries of inputs that have to be stored.
const STORE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// First and longest back-off between scans; only a permanent error makes it longer.
const SCAN_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Tries after a failed expectation, before the batch is halved. The last one claims nothing.
const REREADS: usize = 2;
/// Collisions with other transactions before the batch is halved to isolate the colliding input.
const COLLISIONS: usize = 5;
/// Consecutive equal failures of a single input before it is given up. A batch is halved at the
/// second.
const TIMES_ALONE: usize = 4;

/// The inputs of a loop, by what a failure means to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// They have to be stored, for as long as the database is away.
    Kept,
    /// Their callers wait, and get the error.
    Returned,
    /// There are none: the next scan finds the same steps.
    Scanned,
}

/// The cause of a failure, as far as the policy distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause<'a> {
    /// The rows differed from the expected ones: cached rows or, if `is_admission`, the known
    /// version or quota share of a service were outdated.
    Expectation { is_admission: bool },
    /// Another transaction was in the way.
    Collision(Collision),
    /// A later try may succeed. `way` is the SQLSTATE of a failure that the inputs may have caused;
    /// none if the database was away or restarting.
    Transient { way: Option<&'a str> },
    /// Every further try would fail.
    Permanent,
}

impl<'a> Cause<'a> {
    pub fn of(error: &'a StoreError) -> Self {
        // A collision is transient too, but not for ever: it may be isolated by halving.
        match error.collision() {
            Some(kind) => Self::Collision(kind),
            None if error.is_expectation() => Self::Expectation {
                is_admission: error.is_stale_admission(),
            },
            None if error.is_transient() => Self::Transient { way: error.way() },
            None => Self::Permanent,
        }
    }
}

/// How a transaction is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The admission state is read again first.
    pub refreshes: bool,
    /// Steps may be claimed. Without claims, a transaction relies on no admission version.
    pub claims: bool,
}

impl Attempt {
    pub const FIRST: Self = Self {
        refreshes: false,
        claims: true,
    };
}

/// The next action of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Repeat the transaction at once.
    Repeat(Attempt),
    /// Repeat it after this time.
    Wait(Duration),
    /// Split the batch in two.
    Halve,
    /// Another transaction keeps the rows of the only input locked: try it again later, and others
    /// first.
    SetAside,
    /// End the inputs with the error.
    GiveUp,
}

/// The failures since the last commit.
#[derive(Default)]
pub struct Failures {
    /// Consecutive failed expectations.
    rereads: usize,
    collisions: usize,
    /// Back-offs that grew.
    waits: u32,
    repeated: Repeated,
}

/// The last failure that the inputs may have caused, and the number of times it occurred.
#[derive(Default)]
struct Repeated {
    way: Option<String>,
    times: usize,
}

impl Repeated {
    /// Records a failure of a batch of `len` inputs. Returns true if another try of the whole batch
    /// would fail again. A failure of the database itself never counts.
    fn again(&mut self, way: Option<&str>, len: usize) -> bool {
        self.times = if way.is_some() && way == self.way.as_deref() {
            self.times + 1
        } else {
            usize::from(way.is_some())
        };
        self.way = way.map(str::to_owned);
        self.times >= if len > 1 { 2 } else { TIMES_ALONE }
    }
}

impl Failures {
    /// Resets the counters after a commit.
    pub fn passed(&mut self) {
        *self = Self::default();
    }

    /// The action after a failed transaction of `len` inputs. `is_connected` tells whether its
    /// connection still works.
    pub fn after(
        &mut self,
        inputs: Inputs,
        cause: Cause<'_>,
        len: usize,
        is_connected: bool,
    ) -> Action {
        let rereads = std::mem::take(&mut self.rereads);
        match inputs {
            Inputs::Kept => self.keep(cause, len, rereads),
            Inputs::Returned => self.give_back(cause, len, rereads, is_connected),
            Inputs::Scanned => self.scan(cause),
        }
    }

    fn keep(&mut self, cause: Cause<'_>, len: usize, rereads: usize) -> Action {
        match cause {
            Cause::Expectation { is_admission } if rereads < REREADS => {
                self.reread(rereads, is_admission)
            }
            Cause::Collision(kind) => {
                self.collisions += 1;
                // A lock time-out has waited for long already.
                if kind != Collision::Lock && self.collisions <= COLLISIONS {
                    self.repeated = Repeated::default();
                    return self.wait(STORE_PAUSE);
                }
                if len > 1 {
                    return Action::Halve;
                }
                self.collisions = 0;
                Action::SetAside
            }
            Cause::Transient { way } if !self.repeated.again(way, len) => self.wait(STORE_PAUSE),
            _ if len > 1 => Action::Halve,
            _ => {
                // The failures counted so far were this input's own.
                self.repeated = Repeated::default();
                Action::GiveUp
            }
        }
    }

    fn give_back(
        &mut self,
        cause: Cause<'_>,
        len: usize,
        rereads: usize,
        is_connected: bool,
    ) -> Action {
        let is_sudden = match cause {
            Cause::Expectation { is_admission: true } if rereads < REREADS => {
                return self.reread(rereads, true);
            }
            // A lock time-out has waited for long already.
            Cause::Collision(kind) => kind != Collision::Lock,
            Cause::Transient { .. } => true,
            Cause::Expectation { .. } | Cause::Permanent => false,
        };
        if is_sudden && is_connected && self.collisions < COLLISIONS {
            self.collisions += 1;
            return Action::Repeat(Attempt::FIRST);
        }
        // Halving isolates the input that cannot be stored or that waits for a lock. Without a
        // database it would only delay the error.
        if len > 1 && !matches!(cause, Cause::Transient { .. }) {
            return Action::Halve;
        }
        Action::GiveUp
    }

    fn scan(&mut self, cause: Cause<'_>) -> Action {
        match cause {
            Cause::Expectation { is_admission: true } => Action::Repeat(Attempt {
                refreshes: true,
                claims: true,
            }),
            Cause::Collision(_) | Cause::Transient { .. } => Action::Wait(SCAN_PAUSE.0),
            Cause::Expectation { .. } | Cause::Permanent => self.wait(SCAN_PAUSE),
        }
    }

    /// Repeats at once: the failed commit has evicted the cached rows, so the next try reads under
    /// lock. The last try also claims nothing.
    fn reread(&mut self, rereads: usize, is_admission: bool) -> Action {
        self.rereads = rereads + 1;
        Action::Repeat(Attempt {
            refreshes: is_admission,
            claims: self.rereads < REREADS,
        })
    }

    fn wait(&mut self, (first, longest): (Duration, Duration)) -> Action {
        let pause = first * 2_u32.pow(self.waits.min(10));
        self.waits += 1;
        Action::Wait(pause.min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Cause<'_> = Cause::Transient { way: None };
    const BROKEN: Cause<'_> = Cause::Transient { way: Some("XX000") };
    const DEADLOCK: Cause<'_> = Cause::Collision(Collision::Deadlock);
    const LOCK: Cause<'_> = Cause::Collision(Collision::Lock);
    const STALE_ROWS: Cause<'_> = Cause::Expectation {
        is_admission: false,
    };
    const STALE_ADMISSION: Cause<'_> = Cause::Expectation { is_admission: true };

    /// The actions after these failures in a row.
    fn actions(inputs: Inputs, len: usize, causes: &[Cause<'_>]) -> Vec<Action> {
        let mut failures = Failures::default();
        let causes = causes.iter();
        causes
            .map(|cause| failures.after(inputs, *cause, len, true))
            .collect()
    }

    fn pauses(actions: &[Action]) -> Vec<u128> {
        let pause = |action: &Action| match action {
            Action::Wait(pause) => pause.as_millis(),
            action => panic!("{action:?}"),
        };
        actions.iter().map(pause).collect()
    }

    #[test]
    fn error_without_an_answer_is_transient_and_blames_no_input() {
        let away = StoreError::Connection("no answer in time".into());
        assert_eq!(Cause::of(&away), AWAY);
        let corrupt = StoreError::Corrupt("no".into());
        assert_eq!(Cause::of(&corrupt), Cause::Permanent);
    }

    #[test]
    fn unavailable_database_blames_no_kept_input() {
        for len in [1, 9] {
            let actions = actions(Inputs::Kept, len, &[AWAY; 100]);
            assert_eq!(pauses(&actions).len(), 100);
        }
    }

    #[test]
    fn waits_of_kept_inputs_grow_up_to_a_bound_and_start_again_after_a_commit() {
        let mut failures = Failures::default();
        let waits: Vec<Action> = (0..7)
            .map(|_| failures.after(Inputs::Kept, AWAY, 1, false))
            .collect();
        assert_eq!(pauses(&waits), [50, 100, 200, 400, 800, 1_000, 1_000]);
        failures.passed();
        let wait = failures.after(Inputs::Kept, AWAY, 1, false);
        assert_eq!(pauses(&[wait]), [50]);
    }

    #[test]
    fn stale_rows_of_kept_inputs_are_read_again_and_at_last_without_claims() {
        let again = |refreshes, claims| Action::Repeat(Attempt { refreshes, claims });
        let after = actions(Inputs::Kept, 8, &[STALE_ROWS, STALE_ADMISSION, STALE_ROWS]);
        assert_eq!(
            after,
            [again(false, true), again(true, false), Action::Halve]
        );
        // Another failure in between starts the count anew.
        let after = actions(Inputs::Kept, 1, &[STALE_ROWS, AWAY, STALE_ROWS]);
        assert_eq!(
            (after[0], after[2]),
            (again(false, true), again(false, true))
        );
    }

    #[test]
    fn kept_inputs_are_halved_at_the_second_equal_failure_and_given_up_alone_at_the_fourth() {
        let after = actions(Inputs::Kept, 8, &[BROKEN; 2]);
        assert_eq!(after[1], Action::Halve);
        let after = actions(Inputs::Kept, 1, &[BROKEN; 5]);
        assert_eq!(pauses(&after[..3]).len(), 3);
        assert_eq!(after[3], Action::GiveUp);
        assert!(
            matches!(after[4], Action::Wait(_)),
            "its replacement is counted anew"
        );
    }

    #[test]
    fn colliding_kept_inputs_are_isolated_and_set_aside() {
        assert_eq!(actions(Inputs::Kept, 8, &[LOCK]), [Action::Halve]);
        assert_eq!(actions(Inputs::Kept, 1, &[LOCK]), [Action::SetAside]);
        let after = actions(Inputs::Kept, 8, &[DEADLOCK; COLLISIONS + 1]);
        assert_eq!(pauses(&after[..COLLISIONS]).len(), COLLISIONS);
        assert_eq!(after[COLLISIONS], Action::Halve);
    }

    #[test]
    fn permanent_error_isolates_an_input_and_gives_it_up() {
        for inputs in [Inputs::Kept, Inputs::Returned] {
            let permanent = [Cause::Permanent];
            assert_eq!(actions(inputs, 8, &permanent), [Action::Halve]);
            assert_eq!(actions(inputs, 1, &permanent), [Action::GiveUp]);
        }
    }

    #[test]
    fn callers_get_the_error_while_the_database_is_away() {
        let mut failures = Failures::default();
        let action = failures.after(Inputs::Returned, AWAY, 9, false);
        assert_eq!(action, Action::GiveUp);
    }

    #[test]
    fn returned_inputs_are_repeated_a_bounded_number_of_times() {
        for (cause, at_last) in [(AWAY, Action::GiveUp), (DEADLOCK, Action::Halve)] {
            let after = actions(Inputs::Returned, 2, &[cause; COLLISIONS + 1]);
            let repeat = [Action::Repeat(Attempt::FIRST); COLLISIONS];
            assert_eq!(after, [&repeat[..], &[at_last]].concat());
        }
        assert_eq!(actions(Inputs::Returned, 1, &[LOCK]), [Action::GiveUp]);
    }

    #[test]
    fn returned_inputs_with_a_stale_admission_version_are_stored_without_claims_at_last() {
        let after = actions(Inputs::Returned, 2, &[STALE_ADMISSION; 3]);
        let again = |claims| {
            Action::Repeat(Attempt {
                refreshes: true,
                claims,
            })
        };
        assert_eq!(after, [again(true), again(false), Action::Halve]);
    }

    #[test]
    fn scans_wait_longer_only_after_permanent_errors() {
        assert_eq!(
            pauses(&actions(Inputs::Scanned, 1, &[AWAY, LOCK])),
            [200, 200]
        );
        let after = actions(Inputs::Scanned, 1, &[Cause::Permanent; 7]);
        assert_eq!(pauses(&after), [200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
    }

    #[test]
    fn scan_with_a_stale_admission_version_is_repeated_at_once_with_claims() {
        let again = Action::Repeat(Attempt {
            refreshes: true,
            claims: true,
        });
        assert_eq!(
            actions(Inputs::Scanned, 1, &[STALE_ADMISSION; 3]),
            [again; 3]
        );
    }
}
