//! The action of an op, and the messages that the server owes for it.

use tasker::domain::order::Order;
use tonic::Code;

use crate::op::{Answer, Submission};

/// The call of a client or a worker, and the expected answer. Everything is identified by its
/// position in the model.
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
    /// `None` for a task that does not exist.
    Order {
        task: Option<usize>,
        order: Order,
        expected: Result<(), Code>,
    },
    /// Pauses a template, or the namespace if the name is empty, or lifts that pause.
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
    /// The server notifies the worker that it has lost the attempt.
    Lost {
        worker: usize,
        attempt: usize,
    },
    End {
        worker: usize,
    },
}
