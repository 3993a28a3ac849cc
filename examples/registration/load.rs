//! Registers all applicants at an even pace, whether or not earlier registrations have ended.

use std::time::Duration;

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{population::Applicant, progress::Progress};

/// Runs `register` for each applicant, and starts `per_second` of them each second; returns the
/// records in the applicants' order.
///
/// `register` returns whether the registration completed, and its record.
pub async fn at_pace<T, F>(
    label: &'static str,
    applicants: &[Applicant],
    per_second: f64,
    register: impl Fn(Applicant) -> F,
) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = (bool, T)> + Send + 'static,
{
    let (progress, display) = Progress::start(label, applicants.len());
    let mut pace = interval(Duration::from_secs_f64(1.0 / per_second));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut running = JoinSet::new();
    for (number, applicant) in applicants.iter().enumerate() {
        pace.tick().await;
        progress.started();
        let (registration, progress) = (register(applicant.clone()), progress.clone());
        running.spawn(async move {
            let (completed, record) = registration.await;
            progress.ended(completed);
            (number, record)
        });
    }
    let mut records = running.join_all().await;
    display.stop();
    records.sort_by_key(|(number, _)| *number);
    records.into_iter().map(|(_, record)| record).collect()
}
