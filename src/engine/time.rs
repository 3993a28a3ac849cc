//! Time of the loops: intervals with jitter, and sleeps that end with the server.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The time with a jitter of up to a quarter, so that servers do not poll all at once.
pub fn jitter(time: Duration) -> Duration {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share between 0 and 1 needs no more precision"
    )]
    let share = (random & 0xffff) as f64 / f64::from(0xffff);
    time.mul_f64(0.75 + share / 2.0)
}

/// Sleeps. Returns false if `shutdown` came first.
pub async fn sleep_or_stop(time: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = shutdown.cancelled() => false,
    }
}
