//! Bodies of gRPC in both directions. A message is a frame: a flag for compression, its length in
//! four bytes, and its bytes.

mod request;
mod response;
#[cfg(test)]
mod tests;

use axum::body::Bytes;
use prost::bytes::{BufMut as _, BytesMut};

pub use self::{
    request::{BODY_TIMEOUT, RequestBody},
    response::ResponseBody,
};

/// Size of the header of a message, in bytes.
const HEADER_BYTES: usize = 5;

fn framed(is_packed: bool, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + message.len());
    frame.put_u8(u8::from(is_packed));
    // The length fits four bytes: the bound on a message is far smaller and has been checked.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}
