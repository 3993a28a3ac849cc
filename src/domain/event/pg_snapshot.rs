//! A Postgres snapshot (`pg_snapshot`): which other transactions a transaction sees as ended.

use std::fmt;

/// Every transaction below `end` had ended, except those in `running`. Of two snapshots of one
/// database, the later one sees all that the earlier one sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PgSnapshot {
    end: u64,
    /// In ascending order, all below `end`.
    running: Vec<u64>,
}

impl PgSnapshot {
    /// The snapshot that sees nothing.
    pub fn empty() -> Self {
        Self {
            end: 0,
            running: Vec::new(),
        }
    }

    /// `None` unless `running` is in ascending order and below `end`.
    pub fn new(end: u64, running: Vec<u64>) -> Option<Self> {
        let in_order = running.windows(2).all(|pair| pair[0] < pair[1]);
        (in_order && running.last().is_none_or(|last| *last < end)).then_some(Self { end, running })
    }

    /// Reads the text form of Postgres: `xmin:xmax:xip,...`.
    pub fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once(':')?;
        // `xmin` follows from the other two numbers, so it is checked and not kept.
        first.parse::<u64>().ok()?;
        let (end, running) = rest.split_once(':')?;
        let running = running
            .split(',')
            .filter(|xid| !xid.is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        Self::new(end.parse().ok()?, running)
    }

    /// The lowest transaction id that had not been assigned.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The transactions below `end` that had not ended.
    pub fn running(&self) -> &[u64] {
        &self.running
    }

    /// The lowest transaction id that had not ended: every transaction below it had.
    pub fn all_over_below(&self) -> u64 {
        self.running.first().copied().unwrap_or(self.end)
    }

    /// Whether the transaction had ended.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.end && self.running.binary_search(&xid).is_err()
    }

    /// Whether this snapshot sees all that `other` sees.
    pub fn includes(&self, other: &Self) -> bool {
        other.end <= self.end && self.running.iter().all(|xid| !other.sees(*xid))
    }
}

/// The text form of Postgres.
impl fmt::Display for PgSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.all_over_below(), self.end)?;
        for (i, xid) in self.running.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> PgSnapshot {
        PgSnapshot::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn snapshot_text_of_postgres_round_trips() {
        for text in ["5:5:", "7:9:7", "10:20:10,14,15"] {
            assert_eq!(snapshot(text).to_string(), text);
        }
        for wrong in [
            "", "1", "1:2", "x:2:", "1:x:", "1:5:x", "1:5:5", "1:5:3,2", "1:5:2,2",
        ] {
            assert_eq!(PgSnapshot::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn snapshot_includes_ended_transactions() {
        let s = snapshot("10:20:10,14,15");
        let unseen: Vec<u64> = (8..22).filter(|xid| !s.sees(*xid)).collect();
        assert_eq!(unseen, [10, 14, 15, 20, 21]);
        assert!((0..30).all(|xid| !PgSnapshot::empty().sees(xid)));
    }

    #[test]
    fn later_snapshot_includes_an_earlier_one_and_not_the_reverse() {
        let chain = [
            PgSnapshot::empty(),
            snapshot("5:9:5,7"),
            snapshot("5:9:5"),
            snapshot("5:12:5,11"),
            snapshot("12:12:"),
        ];
        for (i, earlier) in chain.iter().enumerate() {
            for (j, later) in chain.iter().enumerate() {
                assert_eq!(later.includes(earlier), j >= i, "{later} and {earlier}");
            }
        }
    }
}
