//! `/tasker/analytics`.

use super::route::{Route, get};
use crate::{grpc::analytics::Analytics, proto::analytics_service_server::AnalyticsService as _};

pub fn routes() -> Vec<Route> {
    vec![
        get("/tasker/analytics/performance", "AnalyticsService/GetPerformance", |e, r| async move {
            Analytics(e).get_performance(r).await
        }),
        get("/tasker/analytics/bottlenecks", "AnalyticsService/GetBottlenecks", |e, r| async move {
            Analytics(e).get_bottlenecks(r).await
        }),
    ]
}
