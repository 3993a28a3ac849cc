//! A subscriber's position in the event log as a self-contained text: any server can continue from
//! it, and no server stores it.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use super::pg_snapshot::PgSnapshot;

/// The longest cursor, in bytes of text.
pub const MAX_CURSOR_BYTES: usize = 8 << 10;
/// The most running transactions in a position. While more are running, the reader reads the log
/// again a moment later.
pub const MAX_RUNNING: usize = 500;

/// The first byte of the binary form; each layout has its own.
const VERSION: u8 = 1;
/// Capacity in bytes that suffices for the binary form of most cursors.
const USUAL_BYTES: usize = 64;
/// Length of the checksum in bytes.
const SUM_BYTES: usize = 6;

/// A position: every event that `seen` sees has been delivered; of those that `within` sees and
/// `seen` does not, every event up to the `seq` of `within`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The number of removals from the log at the time when this position was known to have no gap.
    pub generation: u64,
    pub seen: PgSnapshot,
    pub within: Option<Within>,
}

/// A position among the events that one snapshot sees and an earlier one does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Within {
    pub to: PgSnapshot,
    pub seq: i64,
}

impl Cursor {
    /// The position before all stored events.
    pub fn beginning(generation: u64) -> Self {
        Self {
            generation,
            seen: PgSnapshot::empty(),
            within: None,
        }
    }

    /// The position after all events that the snapshot sees.
    pub fn after(generation: u64, seen: PgSnapshot) -> Self {
        Self {
            generation,
            seen,
            within: None,
        }
    }

    pub fn is_beginning(&self) -> bool {
        self.seen.end() == 0 && self.within.is_none()
    }

    /// The upper bound of the transactions that the position may refer to.
    pub fn end(&self) -> u64 {
        self.within
            .as_ref()
            .map_or(self.seen.end(), |within| within.to.end())
    }

    /// Moves to the event `seq` among those that `to` sees.
    pub fn move_to(&mut self, to: &PgSnapshot, seq: i64) {
        match &mut self.within {
            // The usual case: the next event of the same snapshot, which is not copied again.
            Some(within) if within.to == *to => within.seq = seq,
            within => {
                *within = Some(Within {
                    to: to.clone(),
                    seq,
                });
            }
        }
    }

    /// The text form. `cell` identifies the database: another database refuses the text instead of
    /// returning other events.
    pub fn encode(&self, cell: &str) -> String {
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        bytes.push(VERSION);
        put(&mut bytes, self.generation);
        put_snapshot(&mut bytes, &self.seen);
        if let Some(within) = &self.within {
            put_snapshot(&mut bytes, &within.to);
            put(&mut bytes, within.seq.cast_unsigned());
        }
        let sum = checksum(&bytes, cell);
        bytes.extend_from_slice(&sum);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` for any text that [`Self::encode`] did not return for this cell.
    pub fn decode(text: &str, cell: &str) -> Option<Self> {
        // Before the decoding, so that an oversized text costs nothing.
        if text.len() > MAX_CURSOR_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM_BYTES)?)?;
        // Before any field is read: a damaged text must not be taken for another position.
        if sum != checksum(body, cell) {
            return None;
        }
        let (version, mut rest) = body.split_first()?;
        // A cursor of a newer layout has a valid checksum, too.
        if *version != VERSION {
            return None;
        }
        let generation = take(&mut rest)?;
        let seen = take_snapshot(&mut rest)?;
        let within = match rest.is_empty() {
            true => None,
            false => Some(Within {
                to: take_snapshot(&mut rest)?,
                seq: take(&mut rest)?.cast_signed(),
            }),
        };
        rest.is_empty().then_some(Self {
            generation,
            seen,
            within,
        })
    }
}

/// The checksum is not a secret: it detects mistakes.
fn checksum(body: &[u8], cell: &str) -> [u8; SUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(cell)
        .chain_update(body)
        .finalize();
    std::array::from_fn(|i| digest[i])
}

/// Writes the end, and from there each running transaction by its distance to the one above, which
/// mostly takes one byte.
fn put_snapshot(bytes: &mut Vec<u8>, snapshot: &PgSnapshot) {
    put(bytes, snapshot.end());
    put(bytes, snapshot.running().len() as u64);
    let mut above = snapshot.end();
    for xid in snapshot.running().iter().rev() {
        put(bytes, above - xid);
        above = *xid;
    }
}

fn take_snapshot(bytes: &mut &[u8]) -> Option<PgSnapshot> {
    let end = take(bytes)?;
    let count = usize::try_from(take(bytes)?)
        .ok()
        .filter(|count| *count <= MAX_RUNNING)?;
    // The count is bounded above, so the text cannot ask for an arbitrary allocation.
    let mut running = Vec::with_capacity(count);
    let mut above = end;
    for _ in 0..count {
        above = above.checked_sub(take(bytes)?)?;
        running.push(above);
    }
    running.reverse();
    PgSnapshot::new(end, running)
}

/// Writes seven bits per byte, the lowest first; the eighth bit marks that more follow.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        number |= part << shift;
        if byte & 0x80 == 0 {
            // The tenth byte has room for one bit; higher bits would be lost.
            return (part << shift >> shift == part).then_some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors() -> Vec<Cursor> {
        let snapshot = |text| PgSnapshot::parse(text).expect(text);
        let seen = snapshot("700:8000000000:700,7999999990,7999999999");
        let within = Within {
            to: snapshot("8000000100:8000000100:"),
            seq: i64::MAX,
        };
        vec![
            Cursor::beginning(0),
            Cursor::after(300, seen.clone()),
            Cursor {
                generation: u64::MAX,
                seen,
                within: Some(within),
            },
        ]
    }

    #[test]
    fn cursor_round_trips() {
        for cursor in cursors() {
            let text = cursor.encode("cell");
            assert!(text.len() < 100, "{text}");
            assert_eq!(Cursor::decode(&text, "cell"), Some(cursor));
        }
    }

    #[test]
    fn largest_cursor_fits_and_a_larger_one_is_refused() {
        let running = |count: u64| {
            PgSnapshot::new(
                u64::MAX,
                (0..count).map(|i| (1 << 62) + (i << 34)).collect(),
            )
        };
        let cursor = |count: u64| {
            let (seen, to) = (
                running(count).expect("in order"),
                running(count).expect("in order"),
            );
            Cursor {
                generation: 1,
                seen,
                within: Some(Within { to, seq: 1 }),
            }
        };
        let text = cursor(MAX_RUNNING as u64).encode("cell");
        assert!(text.len() <= MAX_CURSOR_BYTES, "{} bytes", text.len());
        assert!(Cursor::decode(&text, "cell").is_some());
        assert_eq!(
            Cursor::decode(&cursor(MAX_RUNNING as u64 + 1).encode("cell"), "cell"),
            None
        );
    }

    #[test]
    fn cursor_that_is_cut_changed_or_of_another_cell_is_refused() {
        for cursor in cursors() {
            let text = cursor.encode("cell");
            assert_eq!(Cursor::decode(&text, "another cell"), None);
            for i in 0..text.len() {
                assert_eq!(Cursor::decode(&text[..i], "cell"), None);
                let mut changed = text.clone().into_bytes();
                changed[i] = if changed[i] == b'A' { b'B' } else { b'A' };
                assert_eq!(
                    Cursor::decode(&String::from_utf8(changed).expect("ASCII"), "cell"),
                    None
                );
            }
        }
        for wrong in ["", "-", "é", "0", &"A".repeat(MAX_CURSOR_BYTES + 1)] {
            assert_eq!(Cursor::decode(wrong, "cell"), None, "{wrong}");
        }
    }
}
