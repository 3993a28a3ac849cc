//! Exports spans to an OpenTelemetry collector over gRPC, as the standard `OTEL_*` variables
//! specify. Without them no span is exported and none of this code runs.
//!
//! A handler service adds [`Telemetry::layer`] to its subscriber. The worker's span of each attempt
//! then continues the trace of the task, and [`http::headers`](crate::http::headers) passes it on to
//! the services that the handler calls.

use std::{cell::Cell, env, time::Duration};

use opentelemetry::{
    Context,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{IdGenerator, RandomIdGenerator, Sampler, SdkTracer, SdkTracerProvider},
};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Layer, registry::LookupSpan};

/// How long an end waits for the export of the last spans.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// Variables with the endpoint of the collector; the first one that is set applies.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];

/// Creates spans.
pub type Tracer = SdkTracer;

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A variable asks for something that this build does not support.
    #[error("{0}")]
    Setting(String),
    /// The exporter cannot be built.
    #[error("spans cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// The endpoint that the environment specifies; `None` if it names none, or disables the export.
///
/// # Errors
/// A variable asks for another protocol than gRPC, or for TLS.
pub fn endpoint() -> Result<Option<String>, TelemetryError> {
    let set = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    };
    let off = set(&["OTEL_SDK_DISABLED"]).is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set(&["OTEL_TRACES_EXPORTER"]).is_some_and(|value| value == "none");
    // Before the protocol is judged: a setting of a disabled export is no error.
    let Some(endpoint) = set(&ENDPOINTS).filter(|_| !off) else {
        return Ok(None);
    };
    if let Some(protocol) = set(&PROTOCOLS).filter(|protocol| protocol != "grpc") {
        let message =
            format!("OTEL_EXPORTER_OTLP_PROTOCOL is `{protocol}`: only `grpc` is supported");
        return Err(TelemetryError::Setting(message));
    }
    plain(&endpoint)?;
    Ok(Some(endpoint))
}

fn plain(endpoint: &str) -> Result<&str, TelemetryError> {
    if endpoint.starts_with("http://") {
        return Ok(endpoint);
    }
    Err(TelemetryError::Setting(format!(
        "OTEL_EXPORTER_OTLP_ENDPOINT is `{endpoint}`: expected a URL such as http://127.0.0.1:4317; for TLS, run a collector beside \
         this process"
    )))
}

/// A running exporter.
#[derive(Debug)]
pub struct Telemetry(SdkTracerProvider);

impl Telemetry {
    /// Starts the exporter that the environment specifies; `None` if it names no endpoint, or
    /// disables the export. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// A variable asks for another protocol than gRPC, or for TLS.
    pub fn from_env(service: &str) -> Result<Option<Self>, TelemetryError> {
        endpoint()?
            .map(|endpoint| Self::to(&endpoint, service))
            .transpose()
    }

    /// Starts an exporter to this endpoint, such as `http://127.0.0.1:4317`. `OTEL_SERVICE_NAME`
    /// takes precedence over `service`. To be called inside a Tokio runtime.
    ///
    /// # Errors
    /// The endpoint is not a plain-text `http://` URL, or the exporter cannot be built.
    pub fn to(endpoint: &str, service: &str) -> Result<Self, TelemetryError> {
        let endpoint = plain(endpoint)?;
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()?;
        let mut resource = Resource::builder();
        if env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(service.to_owned());
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // The client decides whether a task is traced, and all its spans must agree.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_id_generator(Ids::default())
            .with_resource(resource.build())
            .build();
        Ok(Self(provider))
    }

    /// A tracer whose spans go to this exporter.
    pub fn tracer(&self) -> Tracer {
        self.0.tracer("tasker")
    }

    /// A layer that exports the spans of `tracing`.
    pub fn layer<S: tracing::Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer().with_tracer(self.tracer())
    }

    /// Exports the remaining spans. Blocks for some seconds at most.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH_LIMIT) {
            tracing::debug!(%error, "the last spans may be lost: their export failed");
        }
    }
}

thread_local! {
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Assigns these ids to the next span that `start` starts, so that other spans could name it as
/// their parent before it existed.
pub fn with_ids<T>(trace: TraceId, span: SpanId, start: impl FnOnce() -> T) -> T {
    NEXT.set(Some((trace, span)));
    let started = start();
    NEXT.set(None);
    started
}

#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get()
            .map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get()
            .map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

/// Makes a span of `tracing` the child of a `traceparent`. Does nothing without
/// [`Telemetry::layer`] or a usable parent.
pub fn continue_in(span: &tracing::Span, traceparent: Option<&str>) {
    if let Some(parent) = traceparent.and_then(parse) {
        // It fails without the layer, and then there is no trace to continue.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// The `traceparent` of the current span of `tracing`, if it is exported.
pub fn traceparent() -> Option<String> {
    let context = tracing::Span::current().context();
    let span = context.span();
    Some(span.span_context())
        .filter(|context| context.is_valid())
        .map(format)
}

/// Parses a `traceparent` of W3C Trace Context.
pub fn parse(traceparent: &str) -> Option<SpanContext> {
    let mut parts = traceparent.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Any other version is read like this one: later versions of the format only append fields.
    if version == "ff" {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

/// Formats a span context as a `traceparent`.
pub fn format(context: &SpanContext) -> String {
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_round_trips() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parse(text).unwrap();
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(format(&context), text);
        for bad in [
            "",
            "00",
            "00-0-0-00",
            &text.replace('7', "g"),
            &text.replacen("00", "ff", 1),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
