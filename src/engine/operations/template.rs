//! Registers templates.

use tasker_template::Problem;

use crate::engine::{
    cache::templates::{RegisterError, Registered},
    context::EngineContext,
};

/// Checks and stores a template. Returns its warnings too; with `deny_warnings`, a template with
/// warnings is not stored.
pub async fn register(
    context: &EngineContext,
    yaml: &str,
    deny_warnings: bool,
) -> Result<(Registered, Vec<Problem>), RegisterError> {
    let wake = context.membership.template_payload();
    let (registered, warnings) = context
        .templates
        .register(yaml, deny_warnings, &wake)
        .await?;
    // Only a restoration writes an event.
    if matches!(registered, Registered::Restored(_)) {
        context.events.written();
    }
    if !matches!(registered, Registered::Taken(_)) {
        // The template is stored; a failed read of its services is repeated later.
        if let Err(error) = context.templates_changed().await {
            tracing::debug!(%error, "the services of a new template cannot be read yet");
        }
    }
    Ok((registered, warnings))
}
