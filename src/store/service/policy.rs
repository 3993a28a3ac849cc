//! The settings of operators: of a service, a namespace or the whole cell.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::Scope;
use crate::{
    domain::policy::{Policy, Settings},
    store::{Db, StoreError},
};

pub(super) const POLICIES: &str = "SELECT namespace, service, policy FROM service_policies";

/// All settings of the cell; there are few.
#[derive(Default)]
pub struct Policies(HashMap<Scope, Settings>);

impl Policies {
    pub(super) fn of(rows: &[Row]) -> Self {
        let entry = |row: &Row| {
            let scope = Scope {
                namespace: row.get(0),
                service: row.get(1),
            };
            match Settings::from_json(row.get(2)) {
                Ok(settings) => Some((scope, settings)),
                Err(error) => {
                    // A newer build wrote them: the service is served without them rather than not
                    // at all.
                    tracing::error!(%error, ?scope, "settings of a service cannot be read by this version");
                    None
                }
            }
        };
        Self(rows.iter().filter_map(entry).collect())
    }

    /// The settings for more than one service: of namespaces and of the cell.
    pub fn wide(&self) -> HashMap<Scope, Settings> {
        let wide = self.0.iter().filter(|(scope, _)| scope.service.is_empty());
        wide.map(|(scope, settings)| (scope.clone(), settings.clone()))
            .collect()
    }

    /// The settings of exactly this scope.
    pub fn set_for(&self, namespace: &str, service: &str) -> Settings {
        let scope = Scope {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        };
        self.0.get(&scope).cloned().unwrap_or_default()
    }

    /// The policy in force for a service.
    pub fn of_service(&self, namespace: &str, service: &str) -> Policy {
        let scopes = [("", ""), (namespace, ""), (namespace, service)];
        scopes.iter().fold(Policy::default(), |policy, (ns, s)| {
            self.set_for(ns, s).over(policy)
        })
    }
}

/// The policy in force, from the settings of the cell, the namespace and the service.
pub(in crate::store) fn layered(settings: [Option<&str>; 3]) -> Policy {
    let known = settings
        .into_iter()
        .flatten()
        .filter_map(|json| Settings::from_json(json).ok());
    known.fold(Policy::default(), |policy, settings| settings.over(policy))
}

/// All settings of the cell.
pub async fn read(db: &Db) -> Result<Policies, StoreError> {
    let client = db.read().await?;
    let all = client.prepare_cached(POLICIES).await?;
    Ok(Policies::of(&client.query(&all, &[]).await?))
}
