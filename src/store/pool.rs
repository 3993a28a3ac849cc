//! The pool of connections that reads share.

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::{ClientWrapper, Runtime};
use tokio_postgres::CancelToken;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    StoreError,
    connect::{Connector, serve},
};

/// Size of the pool that reads (get, list, watch) share.
const POOL_SIZE: usize = 8;

pub(super) type Pool = managed::Pool<Manager>;

/// Creates the connections of the pool.
pub(super) struct Manager(Connector);

/// A pooled connection, with the TLS configuration to reach its host for a cancel request.
pub(super) struct Pooled {
    pub(super) client: ClientWrapper,
    tls: MakeRustlsConnect,
}

impl Pooled {
    /// The token that cancels the statement running on the connection.
    pub(super) fn canceller(&self) -> (CancelToken, MakeRustlsConnect) {
        (self.client.cancel_token(), self.tls.clone())
    }
}

impl managed::Manager for Manager {
    type Type = Pooled;
    type Error = StoreError;

    async fn create(&self) -> Result<Pooled, StoreError> {
        let (client, driver, endpoint) = self.0.connect(&[]).await?;
        Ok(Pooled {
            client: ClientWrapper::new(client, serve(driver)),
            tls: self.0.tls(&endpoint),
        })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<StoreError> {
        match pooled.client.is_closed() {
            true => Err(RecycleError::message("the connection is closed")),
            false => Ok(()),
        }
    }
}

/// An empty pool; it connects on demand.
pub(super) fn pool(connector: Connector) -> Result<Pool, StoreError> {
    Pool::builder(Manager(connector))
        .max_size(POOL_SIZE)
        .runtime(Runtime::Tokio1)
        .build()
        .map_err(|error| StoreError::Config(error.to_string()))
}
