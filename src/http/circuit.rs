//! `/tasker/circuits`.

use super::route::{Route, route};
use crate::{grpc::circuit::Circuits, proto::circuit_service_server::CircuitService as _};

pub fn routes() -> Vec<Route> {
    vec![
        route!(GET "/tasker/circuits" => Circuits.list_circuits, "CircuitService/ListCircuits"),
        route!(POST "/tasker/circuits/policy" => Circuits.set_policy, "CircuitService/SetPolicy"),
        route!(GET "/tasker/circuits/{namespace}/{service}" => Circuits.get_circuit, "CircuitService/GetCircuit"),
        route!(POST "/tasker/circuits/{namespace}/{service}/force" => Circuits.force_circuit, "CircuitService/ForceCircuit"),
        route!(POST "/tasker/circuits/{namespace}/{service}/reset" => Circuits.reset_circuit, "CircuitService/ResetCircuit"),
    ]
}
