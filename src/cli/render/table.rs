//! Tables without frames: a header, aligned columns, two spaces between them.

use super::term::{Term, fit, style, width};

/// On a terminal too narrow for a row, the last cell is cut, but not below this many columns.
const MIN_CUT_COLUMNS: usize = 12;

/// Rows of cells under a header.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table; column names are shown as they are given.
    pub fn new(header: impl IntoIterator<Item = &'static str>) -> Self {
        Self {
            header: header.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. An empty cell shows as `-`, so that every column can be found by counting words.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells
            .into_iter()
            .map(|c| if c.is_empty() { "-".to_owned() } else { c });
        self.rows.push(cells.collect());
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines. On a terminal the last column is cut so that no line wraps; elsewhere
    /// nothing is cut.
    pub fn render(&self, term: &Term) -> String {
        let columns: Vec<usize> = (0..self.header.len())
            .map(|i| {
                self.rows
                    .iter()
                    .filter_map(|r| r.get(i))
                    .map(|c| width(c))
                    .chain([width(self.header[i])])
                    .max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let before_last: usize = columns.iter().rev().skip(1).map(|w| w + 2).sum();
        let room = match term.size() {
            Some((terminal, _)) if term.interactive => {
                terminal.saturating_sub(before_last).max(MIN_CUT_COLUMNS)
            }
            _ => usize::MAX,
        };
        let mut out = String::new();
        let header = self
            .header
            .iter()
            .map(|h| term.paint(style::DIM, h))
            .collect::<Vec<_>>();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                if i + 1 == columns.len() {
                    line.push_str(&fit(cell, room, term.unicode));
                } else {
                    line.push_str(cell);
                    // By its width and not its length, as the escape sequences of a colour take no
                    // columns.
                    line.extend(std::iter::repeat_n(' ', columns[i] - width(cell) + 2));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(["NAME", "N", "NOTE"]);
        table.row(["a".into(), "10".into(), String::new()]);
        table.row(["日本".into(), "\x1b[32m7\x1b[0m".into(), "x y".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_without_trailing_spaces() {
        assert_eq!(
            sample().render(&Term::plain()),
            "NAME  N   NOTE\n\
             a     10  -\n\
             日本  \x1b[32m7\x1b[0m   x y\n"
        );
    }

    #[test]
    fn empty_table_has_only_its_header() {
        let table = Table::new(["A", "B"]);
        assert!(table.is_empty());
        assert_eq!(table.render(&Term::plain()), "A  B\n");
    }
}
