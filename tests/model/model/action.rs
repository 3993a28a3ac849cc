//! What an op amounts to, and what the server owes for it.

use tasker::domain::order::Order;
use tonic::Code;

use crate::op::{Answer, Submission};

/// What a client or a worker is to do, and what it must be answered. Everything is named by its position in the model.
#[derive(Clone, Debug)]
pub enum Action {
    Nothing,
    Register {
        version: usize,
        content: usize,
        expected: Result<bool, Code>,
    },
    Submit {
        submissions: Vec<Submission>,
        expected: Result<Vec<(usize, bool)>, Code>,
    },
    /// None for a task that does not exist.
    Order {
        task: Option<usize>,
        order: Order,
        expected: Result<(), Code>,
    },
    /// A template is paused, or the namespace if it has no name; or that is lifted.
    Hold {
        name: &'static str,
        held: bool,
        expected: Result<bool, Code>,
    },
    Connect {
        handlers: usize,
        slots: usize,
        previous: Option<usize>,
        kept: Vec<usize>,
    },
    Results {
        worker: usize,
        results: Vec<(usize, Answer)>,
    },
    Force {
        handler: usize,
        open: bool,
    },
    Drain {
        worker: usize,
    },
    Leave {
        worker: usize,
    },
    Crash {
        worker: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Ack {
        worker: usize,
        attempt: usize,
        accepted: bool,
    },
    Cancel {
        worker: usize,
        attempt: usize,
    },
    /// The worker is told that the attempt is not its own any more.
    Lost {
        worker: usize,
        attempt: usize,
    },
    End {
        worker: usize,
    },
}
