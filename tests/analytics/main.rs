//! Analytics: the answers are compared with a plain count over the raw rows, over generated
//! histories and over real runs.

mod bounds;
mod discoveries;
mod histories;
mod lives;
mod oracle;
#[path = "../support/mod.rs"]
mod support;

use support::server::Bench;
use tasker::proto::{
    GetBottlenecksRequest, GetBottlenecksResponse, GetPerformanceRequest, GetPerformanceResponse,
    Policy, SetPolicyRequest,
};
use tasker_worker::client::Client;

/// The performance of one namespace.
pub async fn performance(
    client: &mut Client,
    namespace: &str,
    timeout_seconds: f64,
) -> GetPerformanceResponse {
    let request = GetPerformanceRequest {
        namespace: namespace.into(),
        timeout_seconds,
        ..Default::default()
    };
    client
        .analytics
        .get_performance(request)
        .await
        .unwrap()
        .into_inner()
}

pub async fn bottlenecks(
    client: &mut Client,
    namespace: &str,
    task_name: &str,
) -> GetBottlenecksResponse {
    let request = GetBottlenecksRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        ..Default::default()
    };
    client
        .analytics
        .get_bottlenecks(request)
        .await
        .unwrap()
        .into_inner()
}

pub async fn set(bench: &mut Bench, namespace: &str, service: &str, policy: Policy) {
    let request = SetPolicyRequest {
        namespace: namespace.into(),
        service: service.into(),
        policy: Some(policy),
        by: "test".into(),
        reason: "a test".into(),
        ..Default::default()
    };
    bench.client.circuits.set_policy(request).await.unwrap();
}
