//! Builds a worker, and validates its settings before any socket opens.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use http::Uri;
use thiserror::Error;

use crate::{
    config::Config,
    handler::{ErasedHandler, Handler},
    runner::Worker,
};

/// Most server addresses of one worker.
pub const MAX_ADDRESSES: usize = 64;
/// Most handlers of one worker.
pub const MAX_HANDLERS: usize = 1_000;
/// Most namespaces of one worker.
pub const MAX_NAMESPACES: usize = 100;
/// Most labels of one worker.
pub const MAX_LABELS: usize = 64;
/// Most bytes of a name: of the worker, its build, a namespace, a handler, a label or its value.
pub const MAX_NAME_BYTES: usize = 255;
/// Most steps one worker runs at once.
pub const MAX_CONCURRENT_STEPS: usize = 10_000;
/// Steps a worker runs at once by default.
pub const DEFAULT_CONCURRENT_STEPS: usize = 16;
/// How long a worker that shuts down waits for its handlers by default.
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Builds a [`Worker`]; made by [`Worker::builder`].
#[must_use = "a builder does nothing until `build`"]
pub struct WorkerBuilder {
    addresses: Vec<String>,
    handlers: Vec<(String, Arc<dyn ErasedHandler>)>,
    name: String,
    build_id: String,
    namespaces: Vec<String>,
    labels: BTreeMap<String, String>,
    max_concurrent_steps: usize,
    drain_timeout: Duration,
}

impl Worker {
    /// A builder of a worker for a cluster: one or several addresses of its servers, like
    /// `http://127.0.0.1:7233`. It is connected to one of them at a time.
    pub fn builder(addresses: impl IntoIterator<Item = impl Into<String>>) -> WorkerBuilder {
        WorkerBuilder::new(addresses)
    }
}

impl WorkerBuilder {
    pub(crate) fn new(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            handlers: Vec::new(),
            name: format!("worker-{}", std::process::id()),
            build_id: String::new(),
            namespaces: Vec::new(),
            labels: BTreeMap::new(),
            max_concurrent_steps: DEFAULT_CONCURRENT_STEPS,
            drain_timeout: DEFAULT_DRAIN_TIMEOUT,
        }
    }

    /// The name shown in lists and logs; it need not be unique. Default: `worker-` and the process
    /// id. At most [`MAX_NAME_BYTES`].
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The build of this worker, such as a git commit. At most [`MAX_NAME_BYTES`].
    pub fn build_id(mut self, build_id: impl Into<String>) -> Self {
        self.build_id = build_id.into();
        self
    }

    /// The namespaces to serve, instead of all. At most [`MAX_NAMESPACES`].
    pub fn namespaces(mut self, namespaces: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.namespaces = namespaces.into_iter().map(Into::into).collect();
        self
    }

    /// A note for operators, such as a region. At most [`MAX_LABELS`].
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Steps that run at once, of all handlers together: 1 to [`MAX_CONCURRENT_STEPS`]; default
    /// [`DEFAULT_CONCURRENT_STEPS`].
    pub fn max_concurrent_steps(mut self, steps: usize) -> Self {
        self.max_concurrent_steps = steps;
        self
    }

    /// How long a shutdown waits for running handlers and their acknowledgements; default
    /// [`DEFAULT_DRAIN_TIMEOUT`]. Steps unfinished by then are dropped; the server gives them to
    /// another worker, when their lease runs out at the latest, at no cost to their attempts.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Adds a handler under the name that templates use as `handler_class`: 1 to [`MAX_HANDLERS`],
    /// names of at most [`MAX_NAME_BYTES`].
    pub fn handler(mut self, name: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.push((name.into(), Arc::new(handler)));
        self
    }

    /// Validates all settings. No connection is opened yet.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn build(self) -> Result<Worker, BuildError> {
        // The server would refuse a registration out of these bounds, but only after the start.
        within("addresses", self.addresses.len(), 1, MAX_ADDRESSES)?;
        within("handlers", self.handlers.len(), 1, MAX_HANDLERS)?;
        within("namespaces", self.namespaces.len(), 0, MAX_NAMESPACES)?;
        within("labels", self.labels.len(), 0, MAX_LABELS)?;
        within(
            "concurrent steps",
            self.max_concurrent_steps,
            1,
            MAX_CONCURRENT_STEPS,
        )?;
        within("bytes of the name", self.name.len(), 1, MAX_NAME_BYTES)?;
        within(
            "bytes of the build id",
            self.build_id.len(),
            0,
            MAX_NAME_BYTES,
        )?;
        for namespace in &self.namespaces {
            within("bytes of a namespace", namespace.len(), 1, MAX_NAME_BYTES)?;
        }
        for (key, value) in &self.labels {
            within("bytes of a label", key.len(), 1, MAX_NAME_BYTES)?;
            within("bytes of a label's value", value.len(), 0, MAX_NAME_BYTES)?;
        }
        Ok(Worker {
            config: Config {
                addresses: self
                    .addresses
                    .iter()
                    .map(|address| parse_address(address))
                    .collect::<Result<_, _>>()?,
                handlers: index(self.handlers)?,
                name: self.name,
                build_id: self.build_id,
                namespaces: self.namespaces,
                labels: self.labels.into_iter().collect(),
                max_concurrent_steps: self.max_concurrent_steps,
                drain_timeout: self.drain_timeout,
            },
        })
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("name", &self.name)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// Why a worker cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A count or a length is out of bounds.
    #[error("{what}: {found} is out of bounds; give {min} to {max}")]
    OutOfBounds {
        /// The quantity that was counted.
        what: &'static str,
        /// The count.
        found: usize,
        /// The minimum.
        min: usize,
        /// The maximum.
        max: usize,
    },
    /// Two handlers have the same name.
    #[error("handler `{0}` is registered twice; each name has one handler")]
    DuplicateHandler(String),
    /// An address is not the address of a server.
    #[error(
        "`{address}` is not the address of a server: {reason}; expected one such as http://127.0.0.1:7233"
    )]
    BadAddress {
        /// The address as given.
        address: String,
        /// The reason.
        reason: String,
    },
}

fn within(what: &'static str, found: usize, min: usize, max: usize) -> Result<(), BuildError> {
    if (min..=max).contains(&found) {
        Ok(())
    } else {
        Err(BuildError::OutOfBounds {
            what,
            found,
            min,
            max,
        })
    }
}

fn index(
    handlers: Vec<(String, Arc<dyn ErasedHandler>)>,
) -> Result<HashMap<String, Arc<dyn ErasedHandler>>, BuildError> {
    let mut by_name = HashMap::with_capacity(handlers.len());
    for (name, handler) in handlers {
        within("bytes of a handler's name", name.len(), 1, MAX_NAME_BYTES)?;
        // Refused and not replaced: the later handler would silently take the steps of the first.
        if by_name.contains_key(&name) {
            return Err(BuildError::DuplicateHandler(name));
        }
        by_name.insert(name, handler);
    }
    Ok(by_name)
}

fn parse_address(address: &str) -> Result<Uri, BuildError> {
    let bad = |reason: &str| BuildError::BadAddress {
        address: address.to_owned(),
        reason: reason.to_owned(),
    };
    let uri: Uri = address
        .parse()
        .map_err(|error: http::uri::InvalidUri| bad(&error.to_string()))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(bad("TLS needs a proxy beside the worker")),
        _ => return Err(bad("it does not begin with http://")),
    }
    if uri.host().is_none_or(str::is_empty) {
        return Err(bad("it has no host"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(bad("it has a path"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> WorkerBuilder {
        Worker::builder(["http://127.0.0.1:7233"]).handler("h", |_| async { Ok(()) })
    }

    fn refused(builder: WorkerBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn worker_with_defaults_builds() {
        let worker = builder().build().unwrap();
        assert_eq!(worker.config.max_concurrent_steps, DEFAULT_CONCURRENT_STEPS);
        assert!(worker.config.name.starts_with("worker-"));
    }

    #[test]
    fn settings_bounds_hold_at_their_edges() {
        let long = "x".repeat(MAX_NAME_BYTES);
        let over = "x".repeat(MAX_NAME_BYTES + 1);
        let many = |count: usize| (0..count).map(|i| i.to_string()).collect::<Vec<_>>();
        let full = builder()
            .name(&long)
            .build_id(&long)
            .namespaces(many(MAX_NAMESPACES))
            .max_concurrent_steps(MAX_CONCURRENT_STEPS);
        assert!(full.build().is_ok());
        for (what, builder) in [
            ("handlers", Worker::builder(["http://h:1"])),
            (
                "handlers",
                many(MAX_HANDLERS)
                    .iter()
                    .fold(builder(), |b, name| b.handler(name, |_| async { Ok(()) })),
            ),
            (
                "addresses",
                Worker::builder(Vec::<String>::new()).handler("h", |_| async { Ok(()) }),
            ),
            ("namespaces", builder().namespaces(many(MAX_NAMESPACES + 1))),
            (
                "labels",
                many(MAX_LABELS + 1)
                    .iter()
                    .fold(builder(), |b, key| b.label(key, "")),
            ),
            ("concurrent steps", builder().max_concurrent_steps(0)),
            (
                "concurrent steps",
                builder().max_concurrent_steps(MAX_CONCURRENT_STEPS + 1),
            ),
            ("bytes of the name", builder().name("")),
            ("bytes of the name", builder().name(&over)),
            ("bytes of the build id", builder().build_id(&over)),
            ("bytes of a namespace", builder().namespaces([""])),
            ("bytes of a label", builder().label(&over, "")),
            ("bytes of a label's value", builder().label("k", &over)),
            (
                "bytes of a handler's name",
                builder().handler(&over, |_| async { Ok(()) }),
            ),
        ] {
            let message = refused(builder);
            assert!(message.starts_with(&format!("{what}: ")), "{message}");
        }
    }

    #[test]
    fn repeated_handler_name_is_refused() {
        let twice = builder().handler("h", |_| async { Ok(()) });
        assert_eq!(
            refused(twice),
            "handler `h` is registered twice; each name has one handler"
        );
    }

    #[test]
    fn invalid_address_is_refused_with_the_reason() {
        for (address, reason) in [
            ("127.0.0.1:7233", "begin with http://"),
            ("https://tasker:7233", "TLS"),
            ("http://tasker:7233/path", "path"),
            ("http://[", "invalid"),
            ("", "empty"),
        ] {
            let message = refused(Worker::builder([address]).handler("h", |_| async { Ok(()) }));
            assert!(message.contains(reason), "{address}: {message}");
        }
    }
}
