//! `/tasker/analytics`.

use axum::http::Method;

use super::route::{Route, route};
use crate::{grpc::analytics::Analytics, proto::analytics_service_server::AnalyticsService as _};

pub fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/tasker/analytics/performance", "AnalyticsService/GetPerformance", |e, r| async move {
            Analytics(e).get_performance(r).await
        }),
        route(Method::GET, "/tasker/analytics/bottlenecks", "AnalyticsService/GetBottlenecks", |e, r| async move {
            Analytics(e).get_bottlenecks(r).await
        }),
    ]
}
