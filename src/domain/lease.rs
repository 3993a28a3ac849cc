//! Lease tokens, by which a worker proves that it holds an attempt.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

/// Names one attempt of one step. Each claim draws a new random nonce, so the token of an earlier
/// attempt never matches a later one; the nonce alone is the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    pub task_id: Uuid,
    /// Position of the step in its template.
    pub step: i16,
    pub nonce: i64,
}

/// The text is not a lease token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a lease token: copy `lease_token` from the assignment unchanged")]
pub struct MalformedLease;

impl Lease {
    /// The opaque text that the server sends to the worker and the worker returns.
    pub fn to_token(&self) -> String {
        let mut bytes = [0; 26];
        bytes[..16].copy_from_slice(self.task_id.as_bytes());
        bytes[16..18].copy_from_slice(&self.step.to_be_bytes());
        bytes[18..].copy_from_slice(&self.nonce.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the text of [`Lease::to_token`].
    pub fn from_token(token: &str) -> Result<Self, MalformedLease> {
        let mut bytes = [0; 26];
        // Into a buffer of the exact length, which bounds the work for a token of any size.
        match URL_SAFE_NO_PAD.decode_slice(token, &mut bytes) {
            Ok(26) => {}
            _ => return Err(MalformedLease),
        }
        let (task_id, rest) = bytes.split_first_chunk::<16>().ok_or(MalformedLease)?;
        let (step, rest) = rest.split_first_chunk::<2>().ok_or(MalformedLease)?;
        let (nonce, _) = rest.split_first_chunk::<8>().ok_or(MalformedLease)?;
        Ok(Self {
            task_id: Uuid::from_bytes(*task_id),
            step: i16::from_be_bytes(*step),
            nonce: i64::from_be_bytes(*nonce),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_token_round_trips_and_other_text_is_refused() {
        let lease = Lease {
            task_id: Uuid::from_u128(7),
            step: 999,
            nonce: -3,
        };
        let token = lease.to_token();
        assert_eq!(Lease::from_token(&token), Ok(lease));
        for bad in [
            "",
            "x",
            &token[1..],
            &format!("{token}A"),
            "not/base64+at=all",
            &"A".repeat(10_000),
        ] {
            assert_eq!(Lease::from_token(bad), Err(MalformedLease), "{bad:.40}");
        }
    }
}
