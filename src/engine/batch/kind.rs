//! The kinds of batches: their inputs, and the parts of a transaction that differ between them.

use std::{
    collections::BTreeMap,
    future::Future,
    time::{Duration, SystemTime},
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{policy::Inputs, publish::Messages};
use crate::{
    engine::{
        admission::control::Call, decide::decision::FailedProbe,
        dispatch::reservation::SlotReservation, hash::HashSet, observe::metrics::Loop,
        plan::compiled::Plans,
    },
    store::{
        StoreError,
        pipeline::{Candidate, Changes, Claimed, LaneDemand, Pipeline},
    },
};

/// One kind of batch: how its inputs are gathered, read, decided and answered. The methods are in
/// the order in which [`Runner`](super::runner::Runner) calls them.
pub trait Batch: Send + Sync {
    type Input: Send;
    /// The rows that the decision needs.
    type Rows: Send + Sync;
    /// The replies to the inputs, sent after the commit.
    type Replies: Send;

    const LOOP: Loop;
    /// What a failure means to the inputs.
    const INPUTS: Inputs;

    /// Waits for inputs; `None` when the server shuts down and none is left.
    fn gather(
        &mut self,
        shutdown: &CancellationToken,
    ) -> impl Future<Output = Option<Vec<Self::Input>>> + Send;

    /// Splits inputs into transactions; the first one is last in the list.
    fn split(&self, inputs: Vec<Self::Input>) -> Vec<Vec<Self::Input>> {
        vec![inputs]
    }

    /// The slots to reserve before the transaction, by lane.
    fn wants(&self, inputs: &[Self::Input]) -> BTreeMap<i32, usize>;

    /// The lanes to scan for the reserved slots.
    fn demand(&self, slots: &SlotReservation, inputs: &mut [Self::Input]) -> Vec<LaneDemand>;

    /// Reads the rows, usually under lock.
    fn read(
        &self,
        hot: &Pipeline,
        inputs: &mut Vec<Self::Input>,
        demand: Vec<LaneDemand>,
    ) -> impl Future<Output = Result<Reading<Self::Rows, Self::Input>, StoreError>> + Send;

    /// Slots for the steps that were read, if none were reserved before.
    fn late_slots(&self, _read: &Read<Self::Rows>) -> Option<SlotReservation> {
        None
    }

    /// Decides, purely.
    fn decide(&self, read: &Read<Self::Rows>, inputs: &[Self::Input]) -> Decided<Self::Replies>;

    /// Evicts cached rows, as the writes that checked them have failed.
    fn evict(&self, _rows: &Self::Rows) {}

    /// Lanes with waiting steps that were read and not claimed.
    fn lanes_left(
        &self,
        _read: &Read<Self::Rows>,
        _claimed: &[Claimed],
        _is_used_up: bool,
    ) -> HashSet<i32> {
        HashSet::default()
    }

    /// The size of a committed batch, for the metrics.
    fn size(inputs: usize, _changes: &Changes, _claimed: usize) -> usize {
        inputs
    }

    /// Replies to the inputs of a transaction that claimed `claimed` waiting steps. Returns the
    /// inputs that need another transaction.
    fn reply(
        &mut self,
        inputs: Vec<Self::Input>,
        replies: Self::Replies,
        claimed: usize,
    ) -> impl Future<Output = Vec<Self::Input>> + Send;

    /// A transaction has succeeded.
    fn succeeded(&mut self) {}

    /// Prepares the inputs of a failed transaction for the next try. None are left if there is
    /// nothing more to do.
    fn renew(&mut self, inputs: Vec<Self::Input>, _error: &StoreError) -> Vec<Self::Input> {
        inputs
    }

    /// Keeps inputs for later, as another session has their rows locked.
    fn set_aside(&mut self, _inputs: Vec<Self::Input>) {}

    /// Ends inputs with an error. Returns the inputs that take their place.
    fn fail(&mut self, inputs: Vec<Self::Input>, error: StoreError) -> Vec<Self::Input>;
}

/// The result of the first round trip of a transaction.
pub enum Reading<R, I> {
    Rows(Read<R>),
    /// The transaction has ended without effect; these inputs need another one.
    Ended(Vec<I>),
}

/// The rows of a transaction.
pub struct Read<R> {
    pub rows: R,
    /// Waiting steps that could take the slots.
    pub candidates: Vec<Candidate>,
    pub plans: Plans,
    pub now: SystemTime,
    /// The rows come from the attempt cache, and no transaction has begun. The writes check them.
    pub is_cached: bool,
    /// The reading has changed rows, so the transaction is committed even if nothing else changes.
    pub has_written: bool,
}

/// The decision on a batch.
pub struct Decided<R> {
    pub changes: Changes,
    pub messages: Messages,
    /// Ended attempts, for the health of their services.
    pub calls: Vec<Call>,
    /// Lanes whose service asked for a pause, and its length.
    pub throttles: Vec<(i32, Duration)>,
    /// Retries of failed probes, which have to wait past the next probing of their service.
    pub failed_probes: Vec<FailedProbe>,
    /// Tasks whose cached rows lack effects of the changes.
    pub evicted: Vec<Uuid>,
    pub replies: R,
}

impl<R> Decided<R> {
    /// A decision that changes rows and has no other effect.
    pub fn of(changes: Changes, replies: R) -> Self {
        Self {
            changes,
            messages: Messages::default(),
            calls: Vec::new(),
            throttles: Vec::new(),
            failed_probes: Vec::new(),
            evicted: Vec::new(),
            replies,
        }
    }
}
