//! `/tasker/circuits`.

use axum::http::Method;

use super::route::{Route, route};
use crate::{grpc::circuit::Circuits, proto::circuit_service_server::CircuitService as _};

pub fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/tasker/circuits", "CircuitService/ListCircuits", |e, r| async move {
            Circuits(e).list_circuits(r).await
        }),
        route(Method::POST, "/tasker/circuits/policy", "CircuitService/SetPolicy", |e, r| async move {
            Circuits(e).set_policy(r).await
        }),
        route(Method::GET, "/tasker/circuits/{namespace}/{service}", "CircuitService/GetCircuit", |e, r| async move {
            Circuits(e).get_circuit(r).await
        }),
        route(
            Method::POST,
            "/tasker/circuits/{namespace}/{service}/force",
            "CircuitService/ForceCircuit",
            |e, r| async move { Circuits(e).force_circuit(r).await },
        ),
        route(
            Method::POST,
            "/tasker/circuits/{namespace}/{service}/reset",
            "CircuitService/ResetCircuit",
            |e, r| async move { Circuits(e).reset_circuit(r).await },
        ),
    ]
}
