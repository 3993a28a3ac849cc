//! `tasker.v1.AnalyticsService`.

use std::{sync::Arc, time::Duration};

use semver::Version;
use tasker_template::StepIndex;
use tonic::{Code, Request, Response, Status};

use super::{
    convert::{self, duration, timestamp},
    error,
    explain::wait_cause,
};
use crate::{
    domain::{
        analytics::{
            BOTTLENECKS, Bottleneck, Ledger, MAX_BOTTLENECKS, MAX_TASKS, MAX_TIMEOUT_SECONDS,
            MAX_WINDOW_SECONDS, Measure, Service, Step, TASKS, Times, WINDOW_SECONDS, bottlenecks,
            fitting, per,
        },
        explain::Cause,
    },
    engine::{Engine, Plan},
    proto::{
        self, GetBottlenecksRequest, GetBottlenecksResponse, GetPerformanceRequest,
        GetPerformanceResponse, analytics_service_server::AnalyticsService,
    },
    store::analytics::{self, Found, Question},
};

/// The service over an engine.
pub struct Analytics(pub Engine);

/// The templates and the window of a request.
struct Scope {
    namespace: String,
    task_name: String,
    version: String,
    window_seconds: i32,
    max_tasks: i32,
}

/// The measurements of a template.
struct Measured<'a> {
    plan: &'a Plan,
    /// The sums over its ended tasks; all zeros if none has ended.
    task: Measure,
    steps: Vec<Step<'a>>,
}

#[tonic::async_trait]
impl AnalyticsService for Analytics {
    async fn get_performance(
        &self,
        request: Request<GetPerformanceRequest>,
    ) -> Result<Response<GetPerformanceResponse>, Status> {
        let r = request.into_inner();
        let timeout = timeout(r.timeout_seconds)?;
        let scope = Scope {
            namespace: r.namespace,
            task_name: r.task_name,
            version: r.version,
            window_seconds: r.window_seconds,
            max_tasks: r.max_tasks,
        };
        let (plans, found) = self.ask(&scope, timeout).await?;
        let mut all = measured(&plans, &found);
        // The busiest templates first, since the answer has room for a part of them only.
        all.sort_by_key(|template| std::cmp::Reverse(template.task.count));
        let shown = fitting(all.iter().map(|template| template.steps.len()));
        Ok(Response::new(GetPerformanceResponse {
            examined: Some(examined(&found)),
            templates: all[..shown].iter().map(template).collect(),
            templates_left_out: i32::try_from(all.len() - shown).unwrap_or(i32::MAX),
            services: found.services.iter().map(service).collect(),
        }))
    }

    async fn get_bottlenecks(
        &self,
        request: Request<GetBottlenecksRequest>,
    ) -> Result<Response<GetBottlenecksResponse>, Status> {
        let r = request.into_inner();
        let most = bounded(
            "max_bottlenecks",
            r.max_bottlenecks,
            BOTTLENECKS,
            MAX_BOTTLENECKS,
        )?;
        let scope = Scope {
            namespace: r.namespace,
            task_name: r.task_name,
            version: r.version,
            window_seconds: r.window_seconds,
            max_tasks: r.max_tasks,
        };
        let (plans, found) = self.ask(&scope, None).await?;
        let all = measured(&plans, &found);
        let mut ranked: Vec<(Bottleneck, &Measured<'_>)> = Vec::new();
        for template in &all {
            // A service is known by namespace and name: another namespace may have one of the same
            // name.
            let of = |s: &&Service| s.namespace == template.plan.template.namespace;
            let services: Vec<Service> = found.services.iter().filter(of).cloned().collect();
            let costs = bottlenecks(
                &template.plan.template.task_name,
                &template.task,
                &template.steps,
                &services,
            );
            ranked.extend(costs.into_iter().map(|cost| (cost, template)));
        }
        // Again over all templates: `bottlenecks` ranks those of one.
        ranked.sort_by_key(|(bottleneck, _)| std::cmp::Reverse(bottleneck.cost));
        Ok(Response::new(GetBottlenecksResponse {
            examined: Some(examined(&found)),
            bottlenecks: ranked
                .into_iter()
                .take(usize::try_from(most).unwrap_or_default())
                .map(|(b, template)| bottleneck(b, template))
                .collect(),
            services: found.services.iter().map(service).collect(),
        }))
    }
}

impl Analytics {
    async fn ask(
        &self,
        scope: &Scope,
        timeout: Option<f64>,
    ) -> Result<(Vec<Arc<Plan>>, Found), Status> {
        let window = bounded(
            "window_seconds",
            scope.window_seconds,
            WINDOW_SECONDS,
            MAX_WINDOW_SECONDS,
        )?;
        let max_tasks = bounded("max_tasks", scope.max_tasks, TASKS, MAX_TASKS)?;
        let plans = self.plans(scope).await?;
        let templates: Vec<i32> = plans.iter().map(|plan| plan.template_id).collect();
        let edges: Vec<(i32, i16, i16)> = plans.iter().flat_map(|plan| edges(plan)).collect();
        let question = Question {
            templates: &templates,
            edges: &edges,
            window_seconds: window.into(),
            max_tasks: max_tasks.into(),
            timeout_seconds: timeout,
        };
        let found = analytics::ask(self.0.reads(), &question)
            .await
            .map_err(|e| error::store(&e))?;
        let too_much = || {
            let message = "the query would take too long: choose a shorter window, fewer tasks, or one template";
            error::status(Code::ResourceExhausted, "TOO_MUCH_TO_ANALYSE", message)
        };
        Ok((plans, found.ok_or_else(too_much)?))
    }

    /// The templates that the scope selects.
    async fn plans(&self, scope: &Scope) -> Result<Vec<Arc<Plan>>, Status> {
        convert::name("namespace", &scope.namespace)?;
        convert::name("task_name", &scope.task_name)?;
        let version = match scope.version.as_str() {
            "" => None,
            text => Some(Version::parse(text).map_err(|e| {
                error::invalid(
                    "version",
                    format!("not a semantic version such as 1.2.3: {e}"),
                )
            })?),
        };
        let mut plans = self
            .0
            .templates(&scope.namespace, &scope.task_name)
            .await
            .map_err(|e| error::store(&e))?;
        plans.retain(|plan| {
            version
                .as_ref()
                .is_none_or(|version| plan.template.version == *version)
        });
        if plans.is_empty() {
            let message = "no registered template matches; see `tasker template list`";
            return Err(error::status(Code::NotFound, "TEMPLATE_NOT_FOUND", message));
        }
        Ok(plans)
    }
}

/// A bounded number of a request; 0 selects the default.
fn bounded(field: &str, asked: i32, default: i32, max: i32) -> Result<i32, Status> {
    match asked {
        0 => Ok(default),
        n if (1..=max).contains(&n) => Ok(n),
        n => Err(error::invalid(
            field,
            format!("{n} is out of bounds: expected 1 to {max}, or 0 for {default}"),
        )),
    }
}

fn timeout(seconds: f64) -> Result<Option<f64>, Status> {
    if seconds == 0.0 {
        return Ok(None);
    }
    // NaN fails both comparisons, so it is refused too.
    if seconds > 0.0 && seconds <= MAX_TIMEOUT_SECONDS {
        return Ok(Some(seconds));
    }
    let expected =
        format!("expected more than 0 and at most {MAX_TIMEOUT_SECONDS} seconds, or 0 for none");
    Err(error::invalid("timeout_seconds", expected))
}

/// The template, the step and the parent of each edge.
fn edges(plan: &Plan) -> impl Iterator<Item = (i32, i16, i16)> {
    plan.graph.steps().flat_map(move |step| {
        let pair = move |parent: &StepIndex| (plan.template_id, step.into(), (*parent).into());
        plan.graph.parents(step).iter().map(pair)
    })
}

/// Every template with measurements.
fn measured<'a>(plans: &'a [Arc<Plan>], found: &'a Found) -> Vec<Measured<'a>> {
    let of = |plan: &'a Arc<Plan>| {
        let rows = || {
            found
                .measures
                .iter()
                .filter(|(id, ..)| *id == plan.template_id)
        };
        let task = rows()
            .find(|(_, step, _)| step.is_none())
            .map(|(.., measure)| measure.clone());
        let steps: Vec<Step<'a>> = rows()
            .filter_map(|(_, step, measure)| {
                let step = plan.step((*step)?)?;
                Some(Step {
                    name: &step.name,
                    handler: &step.handler,
                    service: &step.service,
                    measure,
                })
            })
            .collect();
        let any = task.is_some() || !steps.is_empty();
        any.then(|| Measured {
            plan,
            task: task.unwrap_or_default(),
            steps,
        })
    };
    plans.iter().filter_map(of).collect()
}

fn examined(found: &Found) -> proto::Examined {
    proto::Examined {
        from: Some(timestamp(found.from)),
        to: Some(timestamp(found.to)),
        tasks: found.tasks,
        cut: found.cut,
    }
}

fn micros(micros: i64) -> Option<prost_types::Duration> {
    Some(duration(Duration::from_micros(
        micros.max(0).cast_unsigned(),
    )))
}

/// Rounded to the microsecond, the precision of the interpolated values.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounded, and thousands of years fit"
)]
fn rounded(time: f64) -> Option<prost_types::Duration> {
    micros(time.round() as i64)
}

fn times(t: &Times) -> Option<proto::Times> {
    Some(proto::Times {
        mean: rounded(t.mean),
        p50: rounded(t.p50),
        p95: rounded(t.p95),
        p99: rounded(t.p99),
        max: rounded(t.max),
    })
}

fn ledger(ledger: &Ledger, wall: i64) -> Option<proto::Ledger> {
    Some(proto::Ledger {
        dependency: micros(ledger.of(Cause::Parents)),
        backoff: micros(ledger.of(Cause::Backoff)),
        circuit: micros(ledger.of(Cause::Circuit)),
        pause: micros(ledger.of(Cause::Throttle)),
        limit: micros(ledger.of(Cause::Limit)),
        no_worker: micros(ledger.of(Cause::NoWorker)),
        dispatch: micros(ledger.of(Cause::Dispatch)),
        run: micros(ledger.of(Cause::Running)),
        wall: micros(wall),
    })
}

fn count(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn template(t: &Measured<'_>) -> proto::TemplatePerformance {
    let (named, m) = (&t.plan.template, &t.task);
    let critical = m.ledger.sum();
    proto::TemplatePerformance {
        namespace: named.namespace.clone(),
        task_name: named.task_name.clone(),
        version: named.version.to_string(),
        count: m.count,
        complete: m.complete,
        failed: m.failed,
        cancelled: m.cancelled,
        success_rate: m.success_rate(),
        retry_rate: m.retry_rate(),
        charged_attempts: count(m.charged),
        free_attempts: count(m.free),
        elapsed: times(&m.elapsed),
        run: times(&m.run),
        wait: times(&m.wait),
        ledger: ledger(&m.ledger, m.wall),
        steps: t.steps.iter().map(|s| step(s, critical)).collect(),
        resolved: m.resolved,
    }
}

fn step(s: &Step<'_>, critical: i64) -> proto::StepPerformance {
    let m = s.measure;
    proto::StepPerformance {
        step: s.name.to_owned(),
        handler: s.handler.to_owned(),
        service: s.service.to_owned(),
        count: m.count,
        complete: m.complete,
        failed: m.failed,
        cancelled: m.cancelled,
        success_rate: m.success_rate(),
        retry_rate: m.retry_rate(),
        charged_attempts: count(m.charged),
        free_attempts: count(m.free),
        elapsed: times(&m.elapsed),
        run: times(&m.run),
        wait: times(&m.wait),
        ledger: ledger(&m.ledger, m.wall),
        critical_share: per(m.critical.sum(), critical),
        longest_success: micros(m.longest_success),
        successes_over_timeout: m.over_timeout,
        skipped: m.skipped,
        resolved: m.resolved,
    }
}

fn service(s: &Service) -> proto::ServicePerformance {
    proto::ServicePerformance {
        namespace: s.namespace.clone(),
        service: s.name.clone(),
        times_opened: s.times_opened,
        time_shut: micros(s.shut),
        pauses: s.throttles,
        time_paused: micros(s.throttled),
    }
}

fn bottleneck(b: Bottleneck, of: &Measured<'_>) -> proto::Bottleneck {
    let named = &of.plan.template;
    let step = &of.steps[b.step];
    proto::Bottleneck {
        message: b.message,
        namespace: named.namespace.clone(),
        task_name: named.task_name.clone(),
        version: named.version.to_string(),
        step: step.name.to_owned(),
        handler: step.handler.to_owned(),
        service: step.service.to_owned(),
        cause: wait_cause(b.cause).into(),
        cost: micros(b.cost),
        cost_per_task: rounded(b.cost_per_task),
        critical_share: b.critical_share,
        mean: rounded(b.mean),
        mean_elapsed: rounded(b.mean_elapsed),
    }
}
