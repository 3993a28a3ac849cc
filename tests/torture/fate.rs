//! The behaviour of a handler in an attempt: a function of the seed, the task, the step and the
//! attempt's number.

use std::time::Duration;

use crate::{document, poison, seed::Rng};

/// The end of an attempt, as far as the handler decides it.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// JSON text of the result.
    Succeed(String),
    Retryable {
        after: Option<Duration>,
    },
    Permanent,
    Released,
    Panic,
    /// Runs past its deadline; `deaf` also past the cancel.
    Hang {
        deaf: bool,
    },
    /// Kills its whole process.
    Crash,
}

/// A fate, and the pause before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    pub pause: Duration,
    /// The pause blocks the thread.
    pub blocks: bool,
    pub fate: Fate,
}

/// The known properties of an attempt before it runs.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The name of the task, the same in every run with the seed.
    pub task: &'a str,
    pub step: &'a str,
    pub handler: &'a str,
    pub attempt: u32,
    /// The number of failures that the context of a golden shape asks for.
    pub failures: u32,
    pub timeout: Duration,
}

/// The longest time-out that a handler waits out.
const SHORT: Duration = Duration::from_millis(3_500);

pub fn of(seed: u64, about: About<'_>) -> Attempt {
    let mut rng = Rng::of(
        seed,
        &format!("fate {} {} {}", about.task, about.step, about.attempt),
    );
    let quick = |fate| Attempt {
        pause: Duration::ZERO,
        blocks: false,
        fate,
    };
    if let Some(fate) = poison::fate(about.handler, &mut rng) {
        return quick(fate);
    }
    match about.handler {
        "golden.flaky" if about.attempt <= about.failures => {
            return quick(Fate::Retryable { after: None });
        }
        "golden.slow_once" if about.attempt == 1 => return quick(Fate::Hang { deaf: false }),
        golden if golden.starts_with("golden.") => return quick(succeed(&mut rng)),
        _ => {}
    }
    let pause = match rng.below(1_000) {
        0..450 => Duration::ZERO,
        450..980 => rng.millis(1..30),
        980..996 => rng.millis(30..800),
        // Longer than a lease.
        _ => rng.millis(800..4_500),
    };
    let blocks = pause < Duration::from_millis(300) && rng.chance(20);
    let fate = match rng.below(20_000) {
        0..1 => Fate::Crash,
        1..60 => Fate::Panic,
        60..120 => Fate::Released,
        120..220 if about.timeout <= SHORT => Fate::Hang {
            deaf: rng.chance(2_000),
        },
        220..350 => Fate::Permanent,
        350..1_100 => Fate::Retryable { after: None },
        1_100..1_350 => Fate::Retryable {
            after: Some(rng.millis(0..1_500)),
        },
        _ => succeed(&mut rng),
    };
    Attempt {
        pause,
        blocks,
        fate,
    }
}

fn succeed(rng: &mut Rng) -> Fate {
    // Some results are large.
    match rng.chance(10) {
        true => Fate::Succeed(format!("\"{}\"", "é".repeat(rng.below(40_000)))),
        false => Fate::Succeed(document::value(rng, 3)),
    }
}

#[test]
fn fates_of_one_seed_repeat_and_cover_every_kind() {
    let about = |attempt| About {
        task: "n-1",
        step: "a",
        handler: "torture.a",
        attempt,
        failures: 0,
        timeout: Duration::from_secs(2),
    };
    let fates: Vec<_> = (0..100_000)
        .map(|attempt| of(7, about(attempt)).fate)
        .collect();
    let count = |is: fn(&Fate) -> bool| fates.iter().filter(|fate| is(fate)).count();
    assert!(count(|f| matches!(f, Fate::Succeed(_))) > 90_000);
    for (what, n) in [
        ("crash", count(|f| *f == Fate::Crash)),
        ("panic", count(|f| *f == Fate::Panic)),
        ("released", count(|f| *f == Fate::Released)),
        ("hang", count(|f| matches!(f, Fate::Hang { deaf: false }))),
        ("deaf", count(|f| matches!(f, Fate::Hang { deaf: true }))),
        ("permanent", count(|f| *f == Fate::Permanent)),
        (
            "retryable",
            count(|f| *f == Fate::Retryable { after: None }),
        ),
        (
            "retry after",
            count(|f| matches!(f, Fate::Retryable { after: Some(_) })),
        ),
    ] {
        assert!(n > 0, "{what} never happens");
    }
    assert_eq!(
        fates,
        (0..100_000)
            .map(|attempt| of(7, about(attempt)).fate)
            .collect::<Vec<_>>()
    );
}
