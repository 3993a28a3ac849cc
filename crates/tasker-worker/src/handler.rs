//! The code that performs a step: a closure or a [`Handler`].

use std::{future::Future, pin::Pin};

use serde::Serialize;

use crate::{PermanentError, StepContext, StepError};

/// Performs steps. One value serves any number of steps at the same time.
///
/// Every closure `Fn(StepContext) -> impl Future<Output = Result<impl Serialize, StepError>>` is
/// one; implement the trait for a type that has state or tests of its own:
///
/// ```
/// use tasker_worker::{Handler, StepContext, StepError, Worker};
///
/// struct Greeter {
///     greeting: String,
/// }
///
/// impl Handler for Greeter {
///     type Output = String;
///
///     async fn handle(&self, step: StepContext) -> Result<String, StepError> {
///         Ok(format!("{} from {}", self.greeting, step.step_name()))
///     }
/// }
///
/// let greeter = Greeter { greeting: "hello".into() };
/// Worker::builder(["http://127.0.0.1:7233"]).handler("greet", greeter).build()?;
/// # Ok::<(), tasker_worker::BuildError>(())
/// ```
pub trait Handler: Send + Sync + 'static {
    /// The result of the step: serialized to at most 1 MiB of JSON.
    type Output: Serialize;

    /// Performs one attempt of one step. It may run again for the same step, after an error, a
    /// time-out or a lost worker: use [`StepContext::idempotency_key`].
    ///
    /// A panic is a retryable error with the code `HANDLER_PANIC`; the worker goes on.
    fn handle(
        &self,
        step: StepContext,
    ) -> impl Future<Output = Result<Self::Output, StepError>> + Send;
}

impl<F, Fut, T> Handler for F
where
    F: Fn(StepContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T, StepError>> + Send,
    T: Serialize,
{
    type Output = T;

    fn handle(&self, step: StepContext) -> impl Future<Output = Result<T, StepError>> + Send {
        self(step)
    }
}

/// A handler of any type, whose result is JSON text.
pub(crate) trait ErasedHandler: Send + Sync + 'static {
    fn call(&self, step: StepContext) -> BoxedAttempt<'_>;
}

type BoxedAttempt<'a> = Pin<Box<dyn Future<Output = Result<String, StepError>> + Send + 'a>>;

impl<H: Handler> ErasedHandler for H {
    fn call(&self, step: StepContext) -> BoxedAttempt<'_> {
        Box::pin(async move {
            let result = self.handle(step).await?;
            serde_json::to_string(&result).map_err(|reason| {
                let message = format!("the handler's result cannot be written as JSON: {reason}");
                PermanentError::new(message)
                    .error_code("RESULT_INVALID")
                    .into()
            })
        })
    }
}
