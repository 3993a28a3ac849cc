//! Operations on a server. An op identifies its objects by a number modulo the number of candidates
//! at its turn, so every subsequence of a history is a history too.

use crate::support::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submission {
    pub template: usize,
    /// A position in `VERSIONS`; `None` for the newest.
    pub version: Option<usize>,
    pub priority: i32,
    pub key: Option<usize>,
    pub context: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Success(usize),
    Retryable,
    Permanent,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    Cancel,
    Pause,
    Resume,
    Retry { fresh: bool },
    RetryStep { fresh: bool },
    ResolveStep(usize),
    ResolveTask,
    Skip,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Register {
        version: usize,
        content: usize,
    },
    Submit(Vec<Submission>),
    /// An operator's order about a task, or about one of its steps.
    Order {
        word: Word,
        task: usize,
        step: usize,
    },
    /// An operator pauses a template or the whole namespace, or lifts the pause.
    Hold {
        template: Option<usize>,
        held: bool,
    },
    /// `handlers` is a set of bits.
    Connect {
        handlers: usize,
        slots: usize,
    },
    Answer {
        attempt: usize,
        answer: Answer,
    },
    /// The same lease is answered twice without a pause; the first answer counts.
    Twice {
        attempt: usize,
        answers: [Answer; 2],
    },
    /// A running attempt is answered by a worker that does not hold it.
    Foreign {
        attempt: usize,
        worker: usize,
        answer: Answer,
    },
    /// An ended attempt is answered by any worker.
    Again {
        attempt: usize,
        worker: usize,
        answer: Answer,
    },
    /// An operator opens the circuit of a handler's service, or closes it.
    Force {
        handler: usize,
        open: bool,
    },
    Drain {
        worker: usize,
    },
    /// Drains and closes with the attempts that it holds.
    Leave {
        worker: usize,
    },
    /// The connection breaks and the worker reconnects at once, with some of its leases.
    Reconnect {
        worker: usize,
        keep: usize,
    },
    /// The connection breaks for good: its leases have to run out.
    Crash {
        worker: usize,
    },
}

impl Op {
    /// Whether the op needs this template: the circuits are those of the first two, and a namespace
    /// exists once it has a template.
    pub fn names(&self, template: usize) -> bool {
        match self {
            Self::Submit(all) => all.iter().any(|s| s.template == template),
            Self::Hold { template: held, .. } => held.unwrap_or(0) == template,
            Self::Force { handler, .. } => *handler == template,
            _ => false,
        }
    }
}

pub fn history(random: &mut Random) -> Vec<Op> {
    // Histories without a worker find little.
    let mut ops = vec![connect(random)];
    ops.extend((0..10 + random.below(30)).map(|_| op(random)));
    ops
}

/// A short history, most of it orders about tasks.
pub fn of_operators(random: &mut Random) -> Vec<Op> {
    let mut ops = vec![connect(random)];
    ops.extend((0..12).map(|_| match random.below(3) {
        0 => Op::Submit(submissions(random)),
        1 => {
            // Failed steps give later orders something to repair.
            let answer = if random.below(3) == 0 {
                Answer::Permanent
            } else {
                answer(random)
            };
            Op::Answer {
                attempt: random.below(64),
                answer,
            }
        }
        _ => order(random),
    }));
    ops
}

fn op(random: &mut Random) -> Op {
    match random.below(1_000) {
        0..180 => Op::Submit(submissions(random)),
        180..450 => Op::Answer {
            attempt: random.below(64),
            answer: answer(random),
        },
        450..475 => Op::Hold {
            template: (random.below(3) > 0).then(|| random.below(5)),
            held: random.below(3) == 0,
        },
        475..490 => Op::Force {
            handler: random.below(2),
            open: random.below(3) == 0,
        },
        490..505 => Op::Foreign {
            attempt: random.below(64),
            worker: random.below(64),
            answer: answer(random),
        },
        505..585 => connect(random),
        585..785 => order(random),
        785..820 => Op::Again {
            attempt: random.below(64),
            worker: random.below(64),
            answer: answer(random),
        },
        820..850 => Op::Twice {
            attempt: random.below(64),
            answers: [answer(random), answer(random)],
        },
        850..880 => Op::Drain {
            worker: random.below(64),
        },
        880..920 => Op::Leave {
            worker: random.below(64),
        },
        920..960 => Op::Reconnect {
            worker: random.below(64),
            keep: random.below(16),
        },
        960..995 => Op::Register {
            version: random.below(3),
            content: random.below(2),
        },
        _ => Op::Crash {
            worker: random.below(64),
        },
    }
}

fn order(random: &mut Random) -> Op {
    Op::Order {
        word: word(random),
        task: random.below(64),
        step: random.below(64),
    }
}

fn word(random: &mut Random) -> Word {
    let fresh = random.below(3) == 0;
    match random.below(100) {
        0..26 => Word::Cancel,
        26..40 => Word::Pause,
        40..54 => Word::Resume,
        54..63 => Word::Retry { fresh },
        63..72 => Word::RetryStep { fresh },
        72..82 => Word::ResolveStep(random.below(2)),
        82..90 => Word::ResolveTask,
        _ => Word::Skip,
    }
}

fn connect(random: &mut Random) -> Op {
    Op::Connect {
        handlers: 1 + random.below(3),
        slots: 1 + random.below(3),
    }
}

fn submissions(random: &mut Random) -> Vec<Submission> {
    let n = *random.pick(&[1, 1, 1, 2, 3]);
    let mut all: Vec<Submission> = Vec::new();
    for _ in 0..n {
        // A key used twice in one request is not modelled.
        let key = (random.below(3) == 0)
            .then(|| random.below(3))
            .filter(|key| all.iter().all(|s| s.key != Some(*key)));
        all.push(Submission {
            template: random.below(5),
            version: (random.below(4) == 0).then(|| {
                if random.below(2) == 0 {
                    0
                } else {
                    random.below(3)
                }
            }),
            priority: *random.pick(&[0, 0, 0, 1, -1]),
            key,
            context: random.below(2),
        });
    }
    all
}

fn answer(random: &mut Random) -> Answer {
    match random.below(100) {
        0..58 => Answer::Success(random.below(100)),
        58..78 => Answer::Retryable,
        78..92 => Answer::Permanent,
        _ => Answer::Released,
    }
}
