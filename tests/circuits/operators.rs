//! Views and orders of operators.

use std::time::Duration;

use prost::Message;
use tasker::proto::{self, CircuitState};
use tonic::Code;

use crate::{
    service::{Service, caller, circuit, quick, set, submit_many, times},
    support::server::{Bench, eventually},
};

fn order(service: &str, state: CircuitState, seconds: Option<u64>) -> proto::ForceCircuitRequest {
    proto::ForceCircuitRequest {
        namespace: "t".into(),
        service: service.into(),
        state: state.into(),
        expires_after: seconds.map(|s| Duration::from_secs(s).try_into().unwrap()),
        by: "ann".into(),
        reason: "deploy".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one circuit, which goes through all that an operator can order"
)]
async fn forced_circuit_holds_until_it_expires_or_is_reset() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    let billing = Service::default();
    let worker = billing.worker(&[&bench.server.url], "h", 4);
    let forced = bench
        .client
        .circuits
        .force_circuit(order("billing", CircuitState::Open, Some(1)))
        .await
        .unwrap();
    let forced = forced.into_inner().circuit.unwrap();
    assert_eq!(
        (forced.forced(), forced.forced_by.as_str(), forced.state()),
        (CircuitState::Open, "ann", CircuitState::Closed)
    );
    submit_many(&mut bench.client, "t/call", 10).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(billing.calls(), 0);
    eventually("the order's time is over", || async {
        (billing.calls() == 10).then_some(())
    })
    .await;
    let seen = circuit(&mut bench.client, "billing").await;
    assert_eq!(
        (
            times(&seen, "circuit.forced"),
            times(&seen, "circuit.released")
        ),
        (1, 1)
    );

    // Closed by order: steps pass although failures have opened the circuit.
    set(
        &mut bench.client,
        "billing",
        proto::Policy {
            cool_down_seconds: Some(600.0),
            max_cool_down_seconds: Some(600.0),
            ..quick()
        },
    )
    .await;
    billing.fail(100);
    submit_many(&mut bench.client, "t/call", 12).await;
    let client = bench.client.clone();
    eventually("it opens", || {
        let mut client = client.clone();
        async move {
            (circuit(&mut client, "billing")
                .await
                .circuit
                .unwrap()
                .state()
                == CircuitState::Open)
                .then_some(())
        }
    })
    .await;
    let before = billing.calls();
    bench
        .client
        .circuits
        .force_circuit(order("billing", CircuitState::Closed, None))
        .await
        .unwrap();
    billing.fail(0);
    eventually("steps pass against the count", || async {
        (billing.calls() >= before + 12).then_some(())
    })
    .await;

    let reset = |reason: &str| proto::ResetCircuitRequest {
        namespace: "t".into(),
        service: "billing".into(),
        by: "ann".into(),
        reason: reason.into(),
    };
    assert_eq!(
        bench
            .client
            .circuits
            .reset_circuit(reset(""))
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    let reset = bench
        .client
        .circuits
        .reset_circuit(reset("fixed"))
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap();
    assert_eq!(
        (reset.state(), reset.forced(), reset.window_calls),
        (CircuitState::Closed, CircuitState::Unspecified, 0)
    );
    worker.abort();
}

fn request(namespace: &str, service: &str, policy: proto::Policy) -> proto::SetPolicyRequest {
    proto::SetPolicyRequest {
        namespace: namespace.into(),
        service: service.into(),
        policy: Some(policy),
        unset: Vec::new(),
        by: "ann".into(),
        reason: "why".into(),
    }
}

/// Unsets a field of the policy of billing, and sets another one.
fn unset(field: &str) -> proto::SetPolicyRequest {
    proto::SetPolicyRequest {
        unset: vec![field.into()],
        ..request(
            "t",
            "billing",
            proto::Policy {
                burst: Some(1),
                ..Default::default()
            },
        )
    }
}

#[tokio::test]
async fn policy_comes_from_the_narrowest_setting() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    for (namespace, service, probes) in [("", "", 7), ("t", "", 8), ("t", "billing", 9)] {
        let policy = proto::Policy {
            probes: Some(probes),
            ..Default::default()
        };
        bench
            .client
            .circuits
            .set_policy(request(namespace, service, policy))
            .await
            .unwrap();
        assert_eq!(
            circuit(&mut bench.client, "billing")
                .await
                .policy
                .unwrap()
                .probes,
            Some(probes)
        );
    }
    let set = bench
        .client
        .circuits
        .set_policy(unset("probes"))
        .await
        .unwrap()
        .into_inner()
        .policy
        .unwrap();
    assert_eq!((set.probes, set.burst), (None, Some(1)));
    let seen = circuit(&mut bench.client, "billing").await;
    assert_eq!(
        seen.policy.unwrap().probes,
        Some(8),
        "nothing set: the namespace's"
    );
    assert_eq!(
        (
            seen.set_for_service.unwrap().probes,
            seen.set_for_cell.unwrap().probes
        ),
        (None, Some(7))
    );
}

#[tokio::test]
async fn invalid_unset_changes_nothing() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    let set = unset("probes");
    bench.client.circuits.set_policy(set).await.unwrap();
    let refused = bench
        .client
        .circuits
        .set_policy(unset("probs"))
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("`probs` is not a field"),
        "{}",
        refused.message()
    );
    let both = bench
        .client
        .circuits
        .set_policy(unset("burst"))
        .await
        .unwrap_err();
    assert_eq!(both.code(), Code::InvalidArgument);
    assert_eq!(
        both.message(),
        "policy.burst: is set, and `unset` names `burst` too: expected one of the two"
    );
    let kept = circuit(&mut bench.client, "billing")
        .await
        .set_for_service
        .unwrap();
    assert_eq!(
        (kept.burst, kept.probes),
        (Some(1), None),
        "a refused change changes nothing"
    );
}

#[tokio::test]
async fn invalid_settings_are_refused_together() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    let bad = proto::Policy {
        probes: Some(-1),
        failure_rate: Some(1.5),
        ..Default::default()
    };
    let refused = bench
        .client
        .circuits
        .set_policy(request("t", "billing", bad))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for field in ["policy.probes", "policy.failure_rate: expected 0.001 to 1"] {
        assert!(refused.message().contains(field), "{}", refused.message());
    }
    let unknown = bench
        .client
        .circuits
        .set_policy(request("t", "nobody", proto::Policy::default()))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let nameless = bench
        .client
        .circuits
        .set_policy(request("", "billing", proto::Policy::default()))
        .await
        .unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn circuits_are_listed_in_pages() {
    let mut bench = Bench::new().await;
    for name in ["a", "b", "c"] {
        crate::support::server::register(&mut bench.client, &caller(name, name, name)).await;
    }
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListCircuitsRequest {
            namespace: "t".into(),
            page_size: 2,
            page_token,
        };
        let page = bench
            .client
            .circuits
            .list_circuits(request)
            .await
            .unwrap()
            .into_inner();
        found.extend(page.circuits.into_iter().map(|c| c.service));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(found, ["a", "b", "c"]);
    let none = proto::GetCircuitRequest {
        namespace: "t".into(),
        service: "nobody".into(),
    };
    assert_eq!(
        bench
            .client
            .circuits
            .get_circuit(none)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
}

/// The bytes at which a page ends early.
const PAGE_BYTES: usize = 3 << 20;

#[tokio::test]
async fn page_of_circuits_ends_at_its_size() {
    let mut bench = Bench::new().await;
    let db = bench.db.connect().await;
    // Larger reasons than today's bounds allow.
    let insert = "INSERT INTO services (namespace, service, forced, forced_by, forced_reason)
                  SELECT 't', 's' || lpad(n::text, 5, '0'), 'open', 'ann', repeat('y', 8192) FROM generate_series(1, 1000) n";
    db.execute(insert, &[]).await.unwrap();
    let (mut sizes, mut found, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = proto::ListCircuitsRequest {
            namespace: "t".into(),
            page_size: 1_000,
            page_token,
        };
        let answer = bench.client.circuits.list_circuits(request).await.unwrap();
        let page = answer.into_inner();
        let bytes: usize = page.circuits.iter().map(Message::encoded_len).sum();
        assert!(bytes <= PAGE_BYTES, "{bytes}");
        sizes.push(page.circuits.len());
        found.extend(page.circuits.into_iter().map(|c| c.service));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert!(sizes.len() == 3 && sizes[0] > 300, "{sizes:?}");
    assert!(found.is_sorted() && found.len() == 1_000);
}
