//! gzip in slices: a long compression or decompression yields to other tasks after each slice. The
//! decompressed size is bounded, so a small message that decompresses to gigabytes costs no more
//! than a large one.

use std::io::{self, Read as _, Write as _};

use axum::body::Bytes;
use flate2::{Compression, bufread::GzDecoder, write::GzEncoder};
use prost::bytes::{Buf as _, buf::Reader};

/// Bytes processed at a time.
const SLICE_BYTES: usize = 64 << 10;
/// Messages below this size are not compressed: they would hardly shrink.
pub const MIN_BYTES: usize = 1_024;

/// Why a message cannot be decompressed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    #[error("it decompresses to more than {0} bytes")]
    TooLarge(usize),
    #[error("it is not a complete gzip stream: {0}")]
    Unreadable(String),
}

/// A decompression in progress.
pub struct Inflate {
    packed: GzDecoder<Reader<Bytes>>,
    out: Vec<u8>,
    max: usize,
}

impl Inflate {
    /// Decompresses to at most `max` bytes.
    pub fn new(packed: Bytes, max: usize) -> Self {
        Self {
            packed: GzDecoder::new(packed.reader()),
            out: Vec::new(),
            max,
        }
    }

    /// Decompresses another slice; returns whether it is complete.
    pub fn go_on(&mut self) -> Result<bool, InflateError> {
        let before = self.out.len();
        // One byte beyond the bound shows that the bound is exceeded.
        let slice = SLICE_BYTES.min(self.max + 1 - before);
        self.out.resize(before + slice, 0);
        let read = self.packed.read(&mut self.out[before..]);
        let read = read.map_err(|error| InflateError::Unreadable(error.to_string()))?;
        self.out.truncate(before + read);
        if self.out.len() > self.max {
            return Err(InflateError::TooLarge(self.max));
        }
        // gzip allows several streams in a row, but no client sends them; the others would be lost
        // silently.
        if read == 0 && self.packed.get_ref().get_ref().has_remaining() {
            return Err(InflateError::Unreadable("data follows its end".into()));
        }
        Ok(read == 0)
    }

    /// Number of bytes decompressed so far.
    pub fn unpacked(&self) -> usize {
        self.out.len()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

/// A compression in progress.
pub struct Deflate {
    plain: Bytes,
    packed: GzEncoder<Vec<u8>>,
}

impl Deflate {
    pub fn new(plain: Bytes) -> Self {
        // The fastest level: most of the gain for a fraction of the time.
        Self {
            plain,
            packed: GzEncoder::new(Vec::new(), Compression::fast()),
        }
    }

    /// Compresses another slice; returns the result once it is complete.
    pub fn go_on(&mut self) -> io::Result<Option<Vec<u8>>> {
        let slice = self.plain.split_to(self.plain.len().min(SLICE_BYTES));
        self.packed.write_all(&slice)?;
        if self.plain.is_empty() {
            self.packed.try_finish()?;
            return Ok(Some(std::mem::take(self.packed.get_mut())));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(plain: &[u8]) -> Vec<u8> {
        let mut deflate = Deflate::new(Bytes::copy_from_slice(plain));
        loop {
            if let Some(packed) = deflate.go_on().unwrap() {
                return packed;
            }
        }
    }

    fn unpacked(packed: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
        let mut inflate = Inflate::new(Bytes::copy_from_slice(packed), max);
        while !inflate.go_on()? {}
        Ok(inflate.into_bytes())
    }

    #[test]
    fn compressed_data_round_trips() {
        for size in [
            0,
            1,
            SLICE_BYTES - 1,
            SLICE_BYTES,
            SLICE_BYTES + 1,
            3 * SLICE_BYTES,
        ] {
            let plain: Vec<u8> = (0..size)
                .map(|i| u8::try_from(i * i % 251).unwrap())
                .collect();
            assert_eq!(unpacked(&packed(&plain), size), Ok(plain), "{size}");
        }
    }

    #[test]
    fn data_that_decompresses_over_the_limit_is_refused() {
        let bomb = packed(&vec![0; 100 << 20]);
        assert!(bomb.len() < 1 << 20, "{}", bomb.len());
        let mut inflate = Inflate::new(bomb.into(), 2 << 20);
        let error = loop {
            match inflate.go_on() {
                Ok(is_all) => assert!(!is_all),
                Err(error) => break error,
            }
        };
        assert_eq!(error, InflateError::TooLarge(2 << 20));
        assert!(
            inflate.out.capacity() <= 4 << 20,
            "{}",
            inflate.out.capacity()
        );
        let exact = packed(&vec![7; 2 << 20]);
        assert_eq!(unpacked(&exact, 2 << 20).unwrap().len(), 2 << 20);
        assert_eq!(
            unpacked(&exact, (2 << 20) - 1),
            Err(InflateError::TooLarge((2 << 20) - 1))
        );
    }

    #[test]
    fn data_that_is_not_gzip_is_refused() {
        let whole = packed(b"a whole message");
        for wrong in [
            &b"plain"[..],
            b"",
            &whole[..whole.len() - 1],
            &[&whole[..], b"x"].concat(),
            &whole.repeat(2),
        ] {
            assert!(
                matches!(unpacked(wrong, 1_000), Err(InflateError::Unreadable(_))),
                "{wrong:?}"
            );
        }
    }
}
