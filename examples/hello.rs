//! The worker of the README's first workflow.

use serde_json::{Value, json};
use tasker_worker::{StepContext, Worker};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7233".into());
    Worker::builder([server])
        .name("hello")
        .handler("demo.greet", |step: StepContext| async move {
            let input: Value = step.context()?;
            let name = input["name"].as_str().unwrap_or_default();
            Ok(json!(format!("Hello, {name}!")))
        })
        .handler("demo.shout", |step: StepContext| async move {
            let greeting: String = step.result_of("greet")?;
            Ok(greeting.to_uppercase())
        })
        .build()?
        .run()
        .await?;
    Ok(())
}
