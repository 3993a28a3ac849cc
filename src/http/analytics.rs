//! `/tasker/analytics`.

use super::route::{Route, route};
use crate::{grpc::analytics::Analytics, proto::analytics_service_server::AnalyticsService as _};

pub fn routes() -> Vec<Route> {
    vec![
        route!(GET "/tasker/analytics/performance" => Analytics.get_performance, "AnalyticsService/GetPerformance"),
        route!(GET "/tasker/analytics/bottlenecks" => Analytics.get_bottlenecks, "AnalyticsService/GetBottlenecks"),
    ]
}
