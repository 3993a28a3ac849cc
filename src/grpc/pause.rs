//! Pauses of whole templates and namespaces.

use tonic::Status;

use super::{actor, convert, error, page};
use crate::{
    engine::Engine,
    proto,
    store::{
        pause::{self, PauseRow},
        service::Actor,
    },
};

/// Bound and default of the pauses on a page: a client without paging gets as many as a page can
/// have.
const MAX_PAGE_SIZE: usize = 1_000;
/// Page tokens are bound to this constant: the list has no filter.
const LIST: &str = "pauses";

pub async fn pause(
    engine: &Engine,
    r: proto::PauseTemplateRequest,
) -> Result<proto::Pause, Status> {
    let actor = actor(&r.namespace, &r.task_name, r.by, r.reason)?;
    known(engine, &r.namespace, &r.task_name).await?;
    let row = engine
        .pause(&r.namespace, &r.task_name, &actor)
        .await
        .map_err(|e| error::store(&e))?;
    Ok(message(row))
}

pub async fn lift(engine: &Engine, r: proto::ResumeTemplateRequest) -> Result<bool, Status> {
    let actor = actor(&r.namespace, &r.task_name, r.by, r.reason)?;
    // No check of the names: a pause can be lifted also when its last template has been
    // removed.
    engine
        .resume(&r.namespace, &r.task_name, &actor)
        .await
        .map_err(|e| error::store(&e))
}

pub async fn list(
    engine: &Engine,
    r: proto::ListPausesRequest,
) -> Result<proto::ListPausesResponse, Status> {
    let size = page::size(r.page_size, MAX_PAGE_SIZE, MAX_PAGE_SIZE)?;
    let after = page::place(&LIST, &r.page_token)?
        .map(|place| page::names(&place))
        .transpose()?
        .unwrap_or_default();
    let limit = i64::try_from(size).unwrap_or(i64::MAX) + 1;
    let rows = pause::page(engine.reads(), (&after.0, &after.1), limit)
        .await
        .map_err(|e| error::store(&e))?;
    let found = rows.len();
    let mut pauses: Vec<proto::Pause> = rows.into_iter().take(size).map(message).collect();
    pauses.truncate(page::fitting(&pauses));
    let last = pauses.last().filter(|_| pauses.len() < found);
    let place = last.map(|last| page::of_names(&last.namespace, &last.task_name));
    let next_page_token = place.map(|place| page::token(&LIST, &place));
    Ok(proto::ListPausesResponse {
        next_page_token: next_page_token.unwrap_or_default(),
        pauses,
    })
}

/// A pause of an unregistered template or namespace is a misspelling, and refused.
async fn known(engine: &Engine, namespace: &str, task_name: &str) -> Result<(), Status> {
    let templates = engine
        .templates(namespace, task_name)
        .await
        .map_err(|e| error::store(&e))?;
    if templates.is_empty() {
        let what = if task_name.is_empty() {
            format!("in namespace {namespace}")
        } else {
            format!("{namespace}/{task_name}")
        };
        return Err(error::status(
            tonic::Code::NotFound,
            "TEMPLATE_NOT_FOUND",
            format!("there is no template {what}"),
        ));
    }
    Ok(())
}

fn actor(namespace: &str, task_name: &str, by: String, reason: String) -> Result<Actor, Status> {
    if namespace.is_empty() {
        return Err(error::invalid(
            "namespace",
            "empty: expected 1 to 255 bytes",
        ));
    }
    convert::name("namespace", namespace)?;
    convert::name("task_name", task_name)?;
    actor::actor(by, reason)
}

fn message(row: PauseRow) -> proto::Pause {
    proto::Pause {
        namespace: row.namespace,
        task_name: row.task_name,
        paused_at: Some(convert::timestamp(row.at)),
        paused_by: row.by,
        reason: row.reason,
    }
}
