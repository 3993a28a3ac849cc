//! One service's gate, as this server knows it: a copy of its row, and what runs and is promised here.

use std::time::{Duration, Instant};

use crate::engine::hash::HashSet;
use crate::{
    domain::{
        circuit::{self, CircuitState},
        lease::Lease,
        policy::Policy,
    },
    store::service::{Permit, ServiceRow},
};

/// Why nobody passes, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shut {
    No,
    Until(Instant),
    /// Until the row says otherwise.
    For(()),
}

/// How many pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    None,
    /// So many at once in the whole cluster.
    Concurrency,
    /// Half-open: each start is counted once.
    Probes,
}

pub(super) struct Gate {
    /// Namespace and service.
    pub(super) name: [String; 2],
    pub(super) gate: i64,
    pub(super) state: CircuitState,
    pub(super) openings: u32,
    /// When the copy was made, and how old the state was then.
    pub(super) read: Instant,
    pub(super) age: f64,
    pub(super) policy: Policy,
    pub(super) lanes: Vec<i32>,
    /// It is among those that are walked through.
    pub(super) listed: bool,
    pub(super) shut: Shut,
    pub(super) limit: Limit,
    /// Something about the row ends by itself then, unless somebody ends it before.
    pub(super) lapses: Option<Instant>,
    pub(super) permit: Option<Permit>,
    /// The attempts that run on this server's part.
    pub(super) running: HashSet<Lease>,
    /// Claims on their way to the database.
    pub(super) promised: i32,
    pub(super) tokens: f64,
    pub(super) tokens_until: Instant,
    pub(super) next_token: Option<Instant>,
    /// Somebody could have passed if there had been more permits or tokens.
    pub(super) starved: bool,
    pub(super) asked: Option<Instant>,
    /// Not reported yet.
    pub(super) calls: circuit::Calls,
    pub(super) probes: circuit::Calls,
}

impl Gate {
    pub(super) fn of(row: ServiceRow, now: Instant) -> Self {
        let forced = row
            .forced
            .filter(|_| row.forced_until.is_none_or(|s| s > 0.0));
        let in_time = |seconds: f64| {
            now + Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX / 4)
        };
        let state = if row.policy.enabled || row.state == CircuitState::Closed {
            row.state
        } else {
            CircuitState::Closed
        };
        let open = forced.unwrap_or(state) == CircuitState::Open;
        let paused = row.paused_until.filter(|seconds| *seconds > 0.0);
        let ramps = state == CircuitState::Closed && row.until.is_some();
        let limited = row.policy.max_concurrency > 0 || ramps;
        Self {
            name: [row.namespace, row.service],
            gate: row.gate,
            state,
            openings: row.openings,
            read: now,
            age: row.age,
            lanes: Vec::new(),
            listed: false,
            shut: match paused {
                _ if open => Shut::For(()),
                Some(seconds) => Shut::Until(in_time(seconds)),
                None => Shut::No,
            },
            limit: match forced.unwrap_or(state) {
                CircuitState::HalfOpen => Limit::Probes,
                _ if limited => Limit::Concurrency,
                _ => Limit::None,
            },
            lapses: row
                .until
                .into_iter()
                .chain(row.forced_until)
                .map(in_time)
                .min(),
            permit: row.permit,
            running: HashSet::default(),
            promised: 0,
            tokens: 0.0,
            tokens_until: now,
            next_token: None,
            starved: false,
            asked: None,
            calls: circuit::Calls::default(),
            probes: circuit::Calls::default(),
            policy: row.policy,
        }
    }

    /// The newer copy of the row; what only this server knows stays.
    pub(super) fn renewed(self, old: Option<Self>) -> Self {
        let Some(old) = old else { return self };
        Self {
            lanes: old.lanes,
            listed: old.listed,
            // Also while there is no limit, or only probes pass: they run on, and count again when there is one.
            running: old.running,
            promised: old.promised,
            tokens: old.tokens,
            tokens_until: old.tokens_until,
            next_token: old.next_token,
            starved: old.starved,
            calls: old.calls,
            probes: old.probes,
            ..self
        }
    }

    /// Whether there is nothing to look after: anybody passes, nothing ends by itself, and nothing is in use or waits to be reported.
    pub(super) fn is_at_rest(&self) -> bool {
        let open = self.shut == Shut::No && self.limit == Limit::None && !self.is_rated();
        let unused = self.running.is_empty() && self.promised == 0 && self.permit.is_none();
        let unwanted = !self.starved && self.next_token.is_none();
        open && unused && unwanted && self.lapses.is_none() && self.calls.calls == 0
    }

    pub(super) fn is_shut(&self, now: Instant) -> bool {
        match self.shut {
            Shut::No => false,
            Shut::Until(until) => now < until,
            Shut::For(()) => true,
        }
    }

    pub(super) fn is_rated(&self) -> bool {
        self.policy.per_second > 0.0
    }

    /// The steps at once that are allowed in the cluster.
    pub(super) fn concurrency(&self, now: Instant) -> u32 {
        let policy = &self.policy;
        let set = if policy.max_concurrency > 0 {
            policy.max_concurrency
        } else {
            u32::MAX
        };
        let seconds = self.age + now.duration_since(self.read).as_secs_f64();
        let ramps = self.state == CircuitState::Closed
            && self.lapses.is_some()
            && seconds < policy.ramp_seconds;
        if ramps {
            set.min(circuit::ramp(policy, seconds))
        } else {
            set
        }
    }

    /// How many more may pass here, if a transaction ends `freed` of those that run.
    pub(super) fn room(&self, now: Instant, freed: i32) -> i32 {
        if self.is_shut(now) {
            return 0;
        }
        let count = self.permit.map_or(0, |permit| permit.count);
        let running = i32::try_from(self.running.len()).unwrap_or(i32::MAX);
        let room = match self.limit {
            Limit::None => i32::MAX,
            Limit::Concurrency => count - running - self.promised + freed,
            Limit::Probes => count - self.promised,
        };
        if self.is_rated() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a bucket holds at most a million"
            )]
            let tokens = if now < self.tokens_until {
                self.tokens as i32
            } else {
                0
            };
            return room.min(tokens).max(0);
        }
        room.max(0)
    }
}
