//! Turns the answers of HTTP services into results and step errors.

use std::error::Error;

use http::{HeaderMap, StatusCode};

use super::StepError;

/// What an answer's status means for the step.
pub fn check(service: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), StepError> {
    let _ = (service, status, headers);
    Ok(())
}

/// The service could not be reached, or the connection broke.
pub fn connection_error(service: &str, error: &dyn Error) -> StepError {
    let _ = (service, error);
    StepError::Released
}

/// The service did not answer in time.
pub fn timeout(service: &str) -> StepError {
    let _ = service;
    StepError::Released
}
