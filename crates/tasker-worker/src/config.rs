//! The settings of a worker.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::Uri;

use crate::handler::ErasedHandler;

/// A validated configuration.
pub(crate) struct Config {
    pub addresses: Vec<Uri>,
    pub handlers: HashMap<String, Arc<dyn ErasedHandler>>,
    pub name: String,
    pub build_id: String,
    pub namespaces: Vec<String>,
    pub labels: HashMap<String, String>,
    pub max_concurrent_steps: usize,
    pub drain_timeout: Duration,
}
