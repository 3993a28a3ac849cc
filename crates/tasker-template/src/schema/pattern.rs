//! The cost of matching a pattern.
//!
//! The validator matches a pattern with an automaton whose states are built while the text is read,
//! which costs some nanoseconds per byte as long as the states are few. For a pattern with too many
//! states the validator walks through the whole pattern at each byte instead, which takes a
//! thousand times as long for a large one.

use std::collections::HashSet;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson;
use regex_automata::util::start;
use regex_automata::util::syntax;
use regex_automata::{Anchored, MatchKind};

use super::MAX_PATTERN_BYTES;

/// Steps to begin a match.
const MATCH: u64 = 4;
/// Steps per KiB of text for an automaton with few states.
const FEW_STATES_PER_KIB: u64 = 160;
/// Steps per KiB of text and part of the pattern for an automaton with many states.
const PART_PER_KIB: u64 = 200;
/// The most states that count as few: so many fit into the validator's cache.
const MAX_STATES: usize = 400;
/// The assumed number of parts of an unknown pattern.
const MAX_PARTS: u64 = MAX_PATTERN_BYTES as u64 / 16;

/// The matching cost of one pattern, in steps per KiB of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Effort {
    pub per_kib: u64,
}

impl Effort {
    /// Measures a pattern in the dialect of schemas.
    pub fn measure(pattern: &str) -> Effort {
        let parts = match jsonschema_regex::to_rust_regex(pattern) {
            Ok(pattern) => parts(&pattern),
            // The survey has refused such a pattern, so the worst case is a safe answer.
            Err(()) => Some(MAX_PARTS),
        };
        Effort {
            per_kib: parts.map_or(FEW_STATES_PER_KIB, |parts| {
                FEW_STATES_PER_KIB + parts * PART_PER_KIB
            }),
        }
    }

    /// The cost of an unknown pattern.
    pub fn unknown() -> Effort {
        Effort {
            per_kib: MAX_PARTS * PART_PER_KIB,
        }
    }

    /// Steps for a text of this many bytes.
    pub fn of(self, bytes: usize) -> u64 {
        MATCH + per_kib(self.per_kib, bytes)
    }
}

/// The steps for a text of this many bytes.
pub(super) fn per_kib(steps: u64, bytes: usize) -> u64 {
    steps.saturating_mul(bytes as u64) / 1024
}

/// The number of parts of a pattern; `None` if its automaton has few states in both directions.
fn parts(pattern: &str) -> Option<u64> {
    let mut most = 0;
    // The engine may search in either direction, so the more expensive automaton counts.
    for reverse in [false, true] {
        let config = thompson::Config::new()
            .nfa_size_limit(Some(MAX_PATTERN_BYTES))
            .reverse(reverse);
        // A reverse automaton does not support groups.
        let config = config.which_captures(thompson::WhichCaptures::None);
        let Ok(nfa) = thompson::Compiler::new()
            .configure(config)
            .syntax(syntax::Config::new())
            .build(pattern)
        else {
            // The pattern exceeds the size limit.
            return Some(MAX_PARTS);
        };
        let parts = nfa.states().len() as u64;
        // Backwards, the search looks for the earliest start of a match and follows all
        // alternatives.
        let kind = if reverse {
            MatchKind::All
        } else {
            MatchKind::LeftmostFirst
        };
        let config = DFA::config().match_kind(kind).unicode_word_boundary(true);
        // A pattern that needs a larger cache gets its minimum instead of an error.
        let config = config
            .cache_capacity(2 * MAX_PATTERN_BYTES)
            .skip_cache_capacity_check(true);
        // States that overflow the cache count as too many.
        let config = config.minimum_cache_clear_count(Some(0));
        let few = DFA::builder()
            .configure(config)
            .build_from_nfa(nfa)
            .is_ok_and(|dfa| has_few_states(&dfa));
        most = if few { most } else { parts.max(most) };
    }
    (most > 0).then_some(most)
}

/// Whether the automaton has few states: visits all of them.
fn has_few_states(dfa: &DFA) -> bool {
    visit_all(dfa, &mut dfa.create_cache()).unwrap_or(false)
}

/// `None` if the automaton gives up.
fn visit_all(dfa: &DFA, cache: &mut Cache) -> Option<bool> {
    let mut known: HashSet<LazyStateID> = HashSet::new();
    let mut open = Vec::new();
    // The start state depends on the byte before the match: one byte for each class that the engine
    // distinguishes.
    for before in [
        None,
        Some(b'a'),
        Some(b'-'),
        Some(b'\n'),
        Some(b'\r'),
        Some(0xff),
    ] {
        let config = start::Config::new()
            .anchored(Anchored::No)
            .look_behind(before);
        open.push(dfa.start_state(cache, &config).ok()?);
    }
    while let Some(state) = open.pop() {
        // At a byte that the automaton cannot judge, such as a non-ASCII one beside a word
        // boundary, the engine falls back to the slow walk.
        if state.is_quit() {
            return None;
        }
        if state.is_dead() || !known.insert(state) {
            continue;
        }
        if known.len() > MAX_STATES {
            return Some(false);
        }
        // All bytes of a class lead to the same state.
        for byte in dfa.byte_classes().representatives(0_u8..=255) {
            if let Some(byte) = byte.as_u8() {
                open.push(dfa.next_state(cache, state, byte).ok()?);
            }
        }
    }
    Some(true)
}
