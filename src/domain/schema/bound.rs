//! Upper bounds of the cost of applying a schema to any document of a given size.

use super::meter::{Meter, NUMBER, Node, SameKind};

/// In the worst case `uniqueItems` compares the items pair by pair; beyond this many bytes there is
/// no bound.
const MAX_UNIQUE_BYTES: usize = 4 * 1024;
/// The fewest bytes of an item of a list, and of a member of a map.
const ITEM_BYTES: u64 = 2;
const MEMBER_BYTES: u64 = 5;

/// Steps by the number `n` of bytes: `fixed + per_byte * n + per_square * n * n`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bound {
    fixed: u64,
    per_byte: u64,
    per_square: u64,
    has_unique: bool,
}

impl Bound {
    const NONE: Bound = Bound {
        fixed: u64::MAX,
        per_byte: 0,
        per_square: 0,
        has_unique: false,
    };

    /// The bound of the whole schema.
    pub fn of(meter: &Meter) -> Bound {
        let mut finder = Finder {
            meter,
            known: vec![None; meter.nodes.len()],
            open: vec![false; meter.nodes.len()],
            work: 0,
        };
        finder.visit(0)
    }

    /// The most steps for `bytes` bytes; [`u64::MAX`] if there is no bound.
    pub fn steps(self, bytes: usize) -> u64 {
        if self.has_unique && bytes > MAX_UNIQUE_BYTES {
            return u64::MAX;
        }
        let n = bytes as u64;
        let square = self.per_square.saturating_mul(n.saturating_mul(n));
        self.fixed
            .saturating_add(self.per_byte.saturating_mul(n))
            .saturating_add(square)
    }

    fn and(self, other: Bound) -> Bound {
        Bound {
            fixed: self.fixed.saturating_add(other.fixed),
            per_byte: self.per_byte.saturating_add(other.per_byte),
            per_square: self.per_square.saturating_add(other.per_square),
            has_unique: self.has_unique || other.has_unique,
        }
    }

    /// The bound of two schemas that apply to different parts of the same value.
    fn beside(self, other: Bound) -> Bound {
        Bound {
            fixed: self.fixed.saturating_add(other.fixed),
            per_byte: self.per_byte.max(other.per_byte),
            per_square: self.per_square.max(other.per_square),
            has_unique: self.has_unique || other.has_unique,
        }
    }

    /// The bound of a schema that applies to each part of a value, where a part has at least
    /// `bytes` bytes.
    fn each(self, bytes: u64) -> Bound {
        let per_byte = self.per_byte.saturating_add(self.fixed / bytes + 1);
        Bound {
            fixed: self.fixed,
            per_byte,
            ..self
        }
    }
}

struct Finder<'m> {
    meter: &'m Meter,
    known: Vec<Option<Bound>>,
    /// The places that are being visited: a schema that contains itself has no bound.
    open: Vec<bool>,
    work: u64,
}

impl Finder<'_> {
    fn visit(&mut self, place: usize) -> Bound {
        if let Some(known) = self.known[place] {
            return known;
        }
        if self.open[place] {
            return Bound::NONE;
        }
        self.open[place] = true;
        let meter = self.meter;
        let node = &meter.nodes[place];
        let mut bound = own(node);
        for same in &node.same {
            bound = bound.and(self.visit(same.to));
        }
        if node.marks() {
            bound = bound.and(self.mark(place));
        }
        // Each property has its own bytes, so the bytes are charged once at the highest rate.
        let named = node.named.values().fold(Bound::default(), |sum, child| {
            sum.beside(self.visit(*child))
        });
        bound = bound.and(named);
        for (_, child) in &node.dependent {
            bound = bound.and(self.visit(*child));
        }
        for (effort, child) in &node.patterns {
            let name = Bound {
                fixed: effort.of(0),
                per_byte: 1 + effort.per_kib / 1024,
                ..Bound::default()
            };
            bound = bound.and(name.and(self.visit(*child)).each(MEMBER_BYTES));
        }
        for child in [
            node.additional,
            node.unevaluated_properties,
            node.property_names,
        ]
        .into_iter()
        .flatten()
        {
            bound = bound.and(self.visit(child).each(MEMBER_BYTES));
        }
        for child in &node.first_items {
            bound = bound.and(self.visit(*child));
        }
        for child in [node.items, node.contains, node.unevaluated_items]
            .into_iter()
            .flatten()
        {
            bound = bound.and(self.visit(child).each(ITEM_BYTES));
        }
        self.open[place] = false;
        self.known[place] = Some(bound);
        bound
    }

    /// The bound of finding out which parts of a value other keywords have evaluated.
    fn mark(&mut self, place: usize) -> Bound {
        self.work += 1;
        if self.work > super::cost::MAX_SCHEMA_PATHS {
            return Bound::NONE;
        }
        let meter = self.meter;
        let node = &meter.nodes[place];
        let mut bound = Bound {
            fixed: 1 + node.named.len() as u64,
            per_byte: 1,
            ..Bound::default()
        };
        for (effort, _) in &node.patterns {
            let name = Bound {
                fixed: effort.of(0),
                per_byte: 1 + effort.per_kib / 1024,
                ..Bound::default()
            };
            bound = bound.and(name.each(MEMBER_BYTES));
        }
        for child in [
            node.unevaluated_properties,
            node.contains,
            node.unevaluated_items,
        ]
        .into_iter()
        .flatten()
        {
            bound = bound.and(self.visit(child).each(ITEM_BYTES));
        }
        for (_, child) in &node.dependent {
            bound = bound.and(self.mark(*child));
        }
        for same in node.same.iter().filter(|same| same.kind != SameKind::Not) {
            bound = bound.and(self.visit(same.to)).and(self.mark(same.to));
        }
        bound
    }
}

/// The bound of the keywords that hold no schemas.
fn own(node: &Node) -> Bound {
    let mut bound = Bound {
        fixed: node.fixed,
        per_byte: 1 + node.text_per_kib.div_ceil(1024),
        ..Bound::default()
    };
    let mut numbers = node.numbers;
    if let Some(candidates) = &node.candidates {
        numbers += candidates.compared_numbers;
        let kinds = [
            candidates.texts,
            candidates.numbers,
            candidates.lists,
            candidates.maps,
        ];
        bound.fixed += 1 + kinds.into_iter().max().unwrap_or(0);
    }
    bound.fixed += numbers * NUMBER;
    bound.per_byte += 2 * numbers;
    bound.per_square += numbers.div_ceil(128);
    if node.unique {
        bound.per_byte += 16;
        bound.per_square += 40;
        bound.has_unique = true;
    }
    bound
}
