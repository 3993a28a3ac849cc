//! The worker of the README's first workflow.

use serde_json::{Value, json};
use tasker::worker::{RetryableError, StepContext, Worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7233".into());
    Worker::builder([server])
        .name("hello")
        .handler("demo.greet", |step: StepContext| async move {
            let input: Value = step.context()?;
            let word = |key: &str| input[key].as_str().unwrap_or_default().to_owned();
            Ok(json!(format!("{}, {}!", word("greeting"), word("name"))))
        })
        .handler("demo.shout", |step: StepContext| async move {
            let greeting: String = step.result_of("greet")?;
            if step.attempt() == 1 {
                return Err(RetryableError::new("the megaphone is warming up").into());
            }
            Ok(greeting.to_uppercase())
        })
        .build()?
        .run()
        .await?;
    Ok(())
}
