//! A pooled connection that is waited for no longer than was said when it was taken: a Postgres that accepts and never
//! answers must not keep anybody.

use std::future::Future;

use deadpool_postgres::{Object, Pool, Transaction};
use tokio::time::{Duration, Instant, timeout_at};
use tokio_postgres::{Row, Statement, ToStatement, types::ToSql};

use super::StoreError;

type Param<'a> = &'a (dyn ToSql + Sync);

/// A pooled connection. It goes back when it is dropped, unless it was kept to the end of its time: then somebody may have
/// gone away from a question that is not answered yet, and the next one would wait behind that.
pub struct Session {
    /// There until it is dropped.
    client: Option<Object>,
    until: Until,
}

/// The transaction of a [`Session`]; it shares the session's time.
pub struct SessionTransaction<'a> {
    tx: Transaction<'a>,
    until: Until,
}

/// The end of a session's time.
#[derive(Clone, Copy)]
struct Until(Instant);

impl Until {
    async fn wait<T, E>(self, answer: impl Future<Output = Result<T, E>>) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        Ok(timeout_at(self.0, answer).await.map_err(|_| StoreError::silent())??)
    }
}

impl Session {
    /// Takes one; `limit` is for getting it and for everything that is done with it.
    pub(super) async fn take(pool: &Pool, limit: Duration) -> Result<Self, StoreError> {
        let until = Until(Instant::now() + limit);
        Ok(Self { client: Some(until.wait(pool.get()).await?), until })
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("the connection is there until the session is dropped")
    }

    pub async fn transaction(&mut self) -> Result<SessionTransaction<'_>, StoreError> {
        let until = self.until;
        let client = self.client.as_mut().expect("the connection is there until the session is dropped");
        Ok(SessionTransaction { tx: until.wait(client.transaction()).await?, until })
    }
}

/// What both can be asked; every answer is waited for no longer than the session's time.
macro_rules! asked {
    ($self:ident => $client:expr) => {
        pub async fn prepare_cached(&$self, sql: &str) -> Result<Statement, StoreError> {
            $self.until.wait($client.prepare_cached(sql)).await
        }

        pub async fn query<S: ?Sized + ToStatement>(&$self, sql: &S, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
            $self.until.wait($client.query(sql, params)).await
        }

        pub async fn query_one<S: ?Sized + ToStatement>(&$self, sql: &S, params: &[Param<'_>]) -> Result<Row, StoreError> {
            $self.until.wait($client.query_one(sql, params)).await
        }

        pub async fn query_opt<S: ?Sized + ToStatement>(
            &$self,
            sql: &S,
            params: &[Param<'_>],
        ) -> Result<Option<Row>, StoreError> {
            $self.until.wait($client.query_opt(sql, params)).await
        }

        pub async fn execute<S: ?Sized + ToStatement>(&$self, sql: &S, params: &[Param<'_>]) -> Result<u64, StoreError> {
            $self.until.wait($client.execute(sql, params)).await
        }

        pub async fn batch_execute(&$self, sql: &str) -> Result<(), StoreError> {
            $self.until.wait($client.batch_execute(sql)).await
        }
    };
}

impl Session {
    asked!(self => self.client());
}

impl SessionTransaction<'_> {
    asked!(self => self.tx);

    pub async fn commit(self) -> Result<(), StoreError> {
        self.until.wait(self.tx.commit()).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if Instant::now() >= self.until.0 {
            // Out of the pool, and closed.
            self.client.take().map(Object::take);
        }
    }
}
