//! `tasker circuit set`.

use serde_json::json;

use crate::{
    cli::{
        Session,
        args::who::Who,
        error::{CliError, exit},
    },
    json,
    proto::{Policy, SetPolicyRequest},
};

/// Set how a service, a namespace or the whole cell is protected; takes effect at once, without a
/// restart
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker circuit set user_management billing_service --max-concurrency 20 --reason 'their new contract'
  tasker circuit set user_management --failure-rate 0.7 --reason 'noisy week'
  tasker circuit set --enabled false --reason 'circuits off, everywhere'
  tasker circuit set user_management billing_service --unset max_concurrency --reason 'the limit is gone'

The narrowest setting decides, field by field: that of the service, then of the namespace, then of the cell, then the default. `tasker circuit get` shows the effective settings and their origin.")]
pub struct Args {
    /// Namespace to set it for; without it, the whole cell
    namespace: Option<String>,
    /// Service to set it for; without it, the whole namespace
    service: Option<String>,
    /// Whether failures open the circuit; throttles and limits apply either way
    #[arg(long)]
    enabled: Option<bool>,
    /// Length of the rolling window
    #[arg(long, value_name = "SECONDS")]
    window: Option<f64>,
    /// Calls in the window below which the circuit stays closed
    #[arg(long, value_name = "N")]
    min_calls: Option<i32>,
    /// Share of failed calls that opens the circuit, such as 0.5
    #[arg(long, value_name = "SHARE")]
    failure_rate: Option<f64>,
    /// A call that takes longer counts as failed; 0 turns this off
    #[arg(long, value_name = "SECONDS")]
    slow_call: Option<f64>,
    /// How long the circuit stays open the first time
    #[arg(long, value_name = "SECONDS")]
    cool_down: Option<f64>,
    /// Longest time that the circuit stays open
    #[arg(long, value_name = "SECONDS")]
    max_cool_down: Option<f64>,
    /// Steps that pass while the circuit is half-open, and must succeed
    #[arg(long, value_name = "N")]
    probes: Option<i32>,
    /// How long after a recovery the concurrent steps are limited
    #[arg(long, value_name = "SECONDS")]
    ramp: Option<f64>,
    /// Longest throttle that a `retry_after` can request
    #[arg(long, value_name = "SECONDS")]
    max_pause: Option<f64>,
    /// Concurrent steps in the whole cluster; 0 for no limit
    #[arg(long, value_name = "N")]
    max_concurrency: Option<i32>,
    /// Starts per second in the whole cluster; 0 for no limit
    #[arg(long, value_name = "RATE")]
    per_second: Option<f64>,
    /// Starts allowed at once after an idle time
    #[arg(long, value_name = "N")]
    burst: Option<i32>,
    /// A setting to remove at this scope, by its name in `circuit get`; may be repeated
    #[arg(long, value_name = "SETTING")]
    unset: Vec<String>,
    #[command(flatten)]
    who: Who,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let (by, reason) = args.who.resolve();
    let policy = Policy {
        enabled: args.enabled,
        window_seconds: args.window,
        min_calls: args.min_calls,
        failure_rate: args.failure_rate,
        slow_call_seconds: args.slow_call,
        cool_down_seconds: args.cool_down,
        max_cool_down_seconds: args.max_cool_down,
        probes: args.probes,
        ramp_seconds: args.ramp,
        max_pause_seconds: args.max_pause,
        max_concurrency: args.max_concurrency,
        per_second: args.per_second,
        burst: args.burst,
    };
    // The server would record an empty change, and raise the version of every service in the scope.
    if policy == Policy::default() && args.unset.is_empty() {
        return Err(
            CliError::new(exit::USAGE, "nothing to set").hint("see `tasker circuit set --help`")
        );
    }
    let request = SetPolicyRequest {
        namespace: args.namespace.unwrap_or_default(),
        service: args.service.unwrap_or_default(),
        policy: Some(policy),
        unset: args.unset,
        by,
        reason,
    };
    let response = session.connect().await?.circuits.set_policy(request).await;
    let set = response
        .map_err(|s| CliError::from_status("cannot set the policy", &s))?
        .into_inner()
        .policy
        .unwrap_or_default();
    if session.json() {
        session.term.json(&json!({"policy": json::value(&set)}))?;
    } else {
        session.term.say("the policy is in force");
    }
    Ok(exit::OK)
}
