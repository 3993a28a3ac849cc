//! The runner of the batched transactions: gather, reserve, read, decide, allocate, commit, publish.
//!
//! Inputs gather while a transaction is in flight, so a batch is one input when idle and hundreds
//! under load; there is no timer. A transaction takes two round trips: one reads under lock, the
//! other writes and commits.

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    kind::{Batch, Decided, Read, Reading},
    outlets::EngineOutlets,
    policy::{Action, Attempt, Cause, Failures, Inputs},
    publish::{Committed, Reserved, publish},
    queue::SettleQueue,
    weigh::weigh,
};
use crate::{
    engine::{
        cache::payloads::Payloads,
        context::EngineContext,
        decide::{
            finish::{delay_failed_probes, unserved_lanes},
            submit::start_claimed,
        },
        dispatch::allocator::{Allocation, allocate},
        time::sleep_or_stop,
    },
    store::{
        StoreError,
        pipeline::{Applied, Changes, Pipeline, WantedInputs},
    },
};

/// The loop of one kind of batch.
pub struct Runner<B> {
    context: EngineContext,
    settle: SettleQueue,
    batch: B,
    hot: Option<Pipeline>,
}

impl<B: Batch> Runner<B> {
    pub fn new(context: EngineContext, settle: SettleQueue, batch: B) -> Self {
        Self {
            context,
            settle,
            batch,
            hot: None,
        }
    }

    /// Runs until `shutdown`, then stores the queued inputs and returns.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let name = B::LOOP.as_str();
        while let Some(inputs) = self.batch.gather(&shutdown).await {
            self.context.pulses.beat(name);
            self.run_all(inputs, &shutdown).await;
            self.context.pulses.rest(name);
        }
    }

    /// Runs transactions until every input has ended. Halving isolates an input that the database
    /// refuses for good, so it delays no other.
    async fn run_all(&mut self, inputs: Vec<B::Input>, shutdown: &CancellationToken) {
        let mut work = self.batch.split(inputs);
        let (mut failures, mut attempt) = (Failures::default(), Attempt::FIRST);
        while let Some(mut inputs) = work.pop() {
            match self.run_once(&mut inputs, attempt).await {
                Ok(again) => {
                    attempt = Attempt::FIRST;
                    failures.passed();
                    self.context.pulses.beat(B::LOOP.as_str());
                    self.context.health.database(true);
                    self.batch.succeeded();
                    // Before the rest of the work: these inputs have waited for longer.
                    if !again.is_empty() {
                        work.push(again);
                    }
                }
                Err(error) => {
                    self.context.db.collisions().note(&error);
                    let cause = Cause::of(&error);
                    let action = failures.after(B::INPUTS, cause, inputs.len(), self.hot.is_some());
                    attempt = match action {
                        Action::Repeat(attempt) => attempt,
                        _ => Attempt::FIRST,
                    };
                    if let Action::Wait(pause) = action
                        && !self.wait(pause, &error, shutdown).await
                    {
                        return;
                    }
                    self.act(action, &mut work, inputs, error);
                }
            }
        }
    }

    /// Waits before the next try. Returns false if the loop has to end instead.
    async fn wait(
        &self,
        pause: Duration,
        error: &StoreError,
        shutdown: &CancellationToken,
    ) -> bool {
        let name = B::LOOP.as_str();
        tracing::debug!(%error, name, "a transaction failed; retrying");
        if B::INPUTS == Inputs::Scanned {
            // Nothing is lost if a server that shuts down scans no more.
            return sleep_or_stop(pause, shutdown).await;
        }
        // At shutdown the loop does not wait for a database that is away.
        if shutdown.is_cancelled() && self.hot.is_none() {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }

    /// Does what the policy says about inputs whose transaction has failed.
    fn act(
        &mut self,
        action: Action,
        work: &mut Vec<Vec<B::Input>>,
        mut inputs: Vec<B::Input>,
        error: StoreError,
    ) {
        let (name, len) = (B::LOOP.as_str(), inputs.len());
        let next = match action {
            Action::Repeat(_) | Action::Wait(_) => self.batch.renew(inputs, &error),
            Action::Halve => {
                tracing::warn!(%error, name, inputs = len, "a transaction failed; the batch is split");
                work.push(inputs.split_off(len / 2));
                inputs
            }
            Action::SetAside => {
                tracing::warn!(%error, name, "another session keeps rows of a task locked; its inputs wait");
                self.batch.set_aside(inputs);
                return;
            }
            Action::GiveUp => self.batch.fail(inputs, error),
        };
        if !next.is_empty() {
            work.push(next);
        }
    }

    /// Runs one transaction. On success `inputs` is empty, and the returned inputs need another
    /// transaction. On failure `inputs` is unchanged.
    async fn run_once(
        &mut self,
        inputs: &mut Vec<B::Input>,
        attempt: Attempt,
    ) -> Result<Vec<B::Input>, StoreError> {
        let hot = match self.hot.take() {
            // A connection that broke while it was idle is replaced instead of failing the batch.
            Some(hot) if !hot.is_closed() => hot,
            _ => self.context.connect().await?,
        };
        if attempt.refreshes {
            self.context.refresh_admission().await?;
        }
        let result = self.transact(&hot, inputs, attempt.claims).await;
        // A connection whose rollback fails is dropped, as its transaction may still be open.
        if result.is_err() && (hot.is_closed() || hot.rollback().await.is_err()) {
            return result;
        }
        self.hot = Some(hot);
        result
    }

    /// One transaction, in its order.
    async fn transact(
        &mut self,
        hot: &Pipeline,
        inputs: &mut Vec<B::Input>,
        claims: bool,
    ) -> Result<Vec<B::Input>, StoreError> {
        // 1. Reserve. Slots and capacity are taken before the transaction, so that no other loop
        //    can use them, and before it reads its clock, see `CapacityReservation::room`.
        let wanted = if claims {
            self.batch.wants(inputs)
        } else {
            BTreeMap::new()
        };
        let mut reserved = Reserved {
            slots: self.context.registry.reserve(&wanted),
            capacity: self.context.admission.reserve(),
        };
        let demand = self.batch.demand(&reserved.slots, inputs);
        // 2. Read, in the first round trip: locks, rows, waiting steps and the clock.
        let read = match self.batch.read(hot, inputs, demand).await? {
            Reading::Rows(read) => read,
            Reading::Ended(again) => return Ok(again),
        };
        if let Some(late) = self.batch.late_slots(&read) {
            reserved.slots = late;
        }
        // 3. Decide.
        let mut decided = self.batch.decide(&read, inputs);
        // 4. Allocate.
        let Allocation { claimed, wanted } = self
            .allocate(hot, &read, &mut decided, &mut reserved)
            .await?;
        let Decided {
            changes,
            mut messages,
            calls,
            evicted,
            replies,
            ..
        } = decided;
        // 5. Commit, in the second round trip. Nothing leaves this server before it.
        let committed = if changes.is_empty() && !read.has_written {
            hot.rollback().await?;
            None
        } else {
            let (applied, payloads, reserved) =
                self.commit(hot, &read, &changes, wanted, reserved).await?;
            let is_used_up = reserved.slots.is_used_up();
            let left = self.batch.lanes_left(&read, &applied.claimed, is_used_up);
            messages.unserved.extend(left);
            Some(Committed {
                changes: &changes,
                plans: &read.plans,
                applied,
                payloads,
                claimed,
                read_at: read.now,
                reserved,
                calls: &calls,
                evicted: &evicted,
            })
        };
        // 6. Publish.
        let outlets = EngineOutlets {
            context: &self.context,
            settle: &self.settle,
            batch: &mut self.batch,
            claimed: committed.as_ref().map_or(0, Committed::claimed_waiting),
            inputs: std::mem::take(inputs),
            replies,
        };
        Ok(publish(outlets, committed, messages).await)
    }

    /// Allocates the reserved slots to steps, and completes the changes by what depends on it.
    async fn allocate(
        &self,
        hot: &Pipeline,
        read: &Read<B::Rows>,
        decided: &mut Decided<B::Replies>,
        reserved: &mut Reserved,
    ) -> Result<Allocation, StoreError> {
        let EngineContext {
            admission,
            payloads,
            membership,
            ..
        } = &self.context;
        let (changes, messages) = (&mut decided.changes, &mut decided.messages);
        delay_failed_probes(changes, &decided.failed_probes, |lane| {
            admission.past_probing(lane)
        });
        // Sizes come before the allocation, as they decide which workers take a step. So do
        // throttles and freed quota: no step may start on a service that has just asked for a
        // pause, and the quota of the attempts that end here may be used again.
        weigh(payloads, hot, changes, &read.plans).await?;
        changes.throttles = admission.throttle(&decided.throttles);
        reserved.capacity.frees(changes);
        let allocation = allocate(
            changes,
            &read.candidates,
            &read.plans,
            &mut reserved.slots,
            &mut reserved.capacity,
            read.now,
        );
        // After the allocation, which decides which roots start at once, and which steps wait.
        start_claimed(changes);
        messages
            .unserved
            .extend(unserved_lanes(changes, &read.plans));
        changes.notify = membership.payload(
            !messages.unserved.is_empty(),
            !messages.cancelled.is_empty(),
            !messages.changed_tasks.is_empty(),
            !changes.throttles.is_empty(),
        );
        Ok(allocation)
    }

    /// Writes and commits. Returns the reservations too, which a failure releases.
    async fn commit(
        &self,
        hot: &Pipeline,
        read: &Read<B::Rows>,
        changes: &Changes,
        mut wanted: WantedInputs,
        reserved: Reserved,
    ) -> Result<(Applied, Payloads, Reserved), StoreError> {
        let payloads = self.context.payloads.lookup(&mut wanted, changes);
        let written = if read.is_cached {
            // The writes check the cached rows, which may be stale if a check fails.
            let written = hot.commit_at_once(changes, &wanted).await;
            written.inspect_err(|_| self.batch.evict(&read.rows))
        } else {
            hot.commit(changes, &wanted, read.now).await
        };
        match written {
            Ok(applied) => Ok((applied, payloads, reserved)),
            Err(error) => {
                // A commit of uncertain outcome may have made the claims that the slots list.
                let Reserved { slots, capacity } = reserved;
                self.settle.commit_failed(&error, &slots, capacity);
                Err(error)
            }
        }
    }
}
