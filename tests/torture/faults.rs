//! The faults of a run and their times. The whole schedule is drawn from the seed before the run
//! begins.

use std::time::Duration;

use crate::seed::Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    ServerKill,
    ServerStop,
    RollingRestart,
    WorkerKill,
    WorkerStop,
    WorkerDeploy,
    PostgresKill,
    PostgresStop,
    SessionsEnded,
    LinkCut,
    LinkReset,
    LinkHalfClosed,
    LinkSlow,
    LinkHeld,
    LinkRefuses,
    CommitLost,
    ServerClock,
    WorkerClock,
    /// A task that is costly to judge or large to assign.
    Poison,
}

/// The kinds, the number of each in a deck, and their duration in milliseconds.
const DECK: [(Kind, usize, std::ops::Range<u64>); 19] = [
    (Kind::ServerKill, 8, 0..2_000),
    (Kind::ServerStop, 8, 200..6_000),
    (Kind::RollingRestart, 2, 0..1),
    (Kind::WorkerKill, 9, 0..1_000),
    (Kind::WorkerStop, 8, 200..6_000),
    (Kind::WorkerDeploy, 3, 0..1),
    (Kind::PostgresKill, 3, 0..1_500),
    (Kind::PostgresStop, 2, 200..2_500),
    (Kind::SessionsEnded, 9, 0..1),
    (Kind::LinkCut, 8, 0..1),
    (Kind::LinkReset, 8, 0..1),
    (Kind::LinkHalfClosed, 7, 0..1),
    (Kind::LinkSlow, 5, 500..4_000),
    (Kind::LinkHeld, 5, 300..5_000),
    (Kind::LinkRefuses, 3, 300..3_000),
    (Kind::CommitLost, 8, 2_000..2_001),
    (Kind::ServerClock, 2, 1_500..5_000),
    (Kind::WorkerClock, 2, 1_500..5_000),
    (Kind::Poison, 10, 0..1),
];

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::ServerKill => "server killed",
            Self::ServerStop => "server stopped",
            Self::RollingRestart => "rolling restart",
            Self::WorkerKill => "worker killed",
            Self::WorkerStop => "worker stopped",
            Self::WorkerDeploy => "worker deployed",
            Self::PostgresKill => "postgres killed",
            Self::PostgresStop => "postgres stopped",
            Self::SessionsEnded => "sessions ended",
            Self::LinkCut => "link cut",
            Self::LinkReset => "link reset",
            Self::LinkHalfClosed => "link half-closed",
            Self::LinkSlow => "link slow",
            Self::LinkHeld => "link held",
            Self::LinkRefuses => "link refuses",
            Self::CommitLost => "commit's answer lost",
            Self::ServerClock => "server clock jump",
            Self::WorkerClock => "worker clock jump",
            Self::Poison => "poison",
        }
    }

    /// Whether it needs libfaketime.
    pub fn needs_clock(self) -> bool {
        matches!(self, Self::ServerClock | Self::WorkerClock)
    }
}

/// One planned fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at: Duration,
    pub kind: Kind,
    pub length: Duration,
    /// Random numbers for the choice of the server, the link and the amount.
    pub luck: [u64; 3],
}

/// The faults of a run, `gap` apart on average. Kinds are dealt from a shuffled deck, so that each
/// gets its turn.
pub fn schedule(seed: u64, time: Duration, gap: Duration, clocks: bool) -> Vec<Planned> {
    let mut rng = Rng::of(seed, "faults");
    let mut deck = Vec::new();
    let mut planned = Vec::new();
    let mut at = gap;
    while at < time {
        if deck.is_empty() {
            deck = DECK
                .iter()
                .flat_map(|(kind, n, length)| (0..*n).map(|_| (*kind, length.clone())))
                .collect();
            deck.retain(|(kind, _)| clocks || !kind.needs_clock());
            rng.shuffle(&mut deck);
        }
        let (kind, length) = deck.pop().unwrap();
        let luck = [rng.next(), rng.next(), rng.next()];
        planned.push(Planned {
            at,
            kind,
            length: rng.millis(length),
            luck,
        });
        let gap = u64::try_from(gap.as_millis()).unwrap();
        at += rng.millis(0..2 * gap + 1);
    }
    planned
}

#[test]
fn schedule_of_one_seed_repeats_and_has_every_kind() {
    let ten_minutes = Duration::from_secs(600);
    let plan = |seed| schedule(seed, ten_minutes, Duration::from_millis(1_500), true);
    assert_eq!(plan(1), plan(1));
    assert!(plan(1) != plan(2));
    for seed in 0..20 {
        let planned = plan(seed);
        assert!(
            planned.len() > 300 && planned.iter().all(|p| p.at < ten_minutes),
            "{}",
            planned.len()
        );
        let kinds: std::collections::BTreeSet<Kind> = planned.iter().map(|p| p.kind).collect();
        assert_eq!(kinds.len(), DECK.len());
    }
    assert!(
        schedule(1, ten_minutes, Duration::from_secs(1), false)
            .iter()
            .all(|p| !p.kind.needs_clock())
    );
}
