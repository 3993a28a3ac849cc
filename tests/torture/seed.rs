//! Repeatable randomness: every draw is a function of the run's seed and of its purpose.

use std::{hash::Hasher as _, ops::Range, time::Duration};

use crate::support::random::split_mix;

/// A stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream for this purpose. Streams of two purposes are independent, in whatever order they
    /// are drawn from.
    pub fn of(seed: u64, purpose: &str) -> Self {
        Self(digest(purpose.as_bytes()) ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    /// A number in `range`, almost uniform.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// True with this probability, in ten-thousandths.
    pub fn chance(&mut self, of_ten_thousand: u64) -> bool {
        self.next() % 10_000 < of_ten_thousand
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            list.swap(i, self.below(i + 1));
        }
    }
}

/// A 64-bit digest of a text. The same in every process of this binary.
pub fn digest(text: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

#[test]
fn random_numbers_of_one_seed_and_purpose_repeat() {
    let first = |seed, purpose: &str| Rng::of(seed, purpose).next();
    assert_eq!(first(1, "a"), first(1, "a"));
    assert!(first(1, "a") != first(1, "b") && first(1, "a") != first(2, "a"));
    let mut rng = Rng::of(1, "x");
    assert!((0..1_000).all(|_| (3..5).contains(&rng.within(3..5))));
    let mut list = [1, 2, 3, 4, 5];
    rng.shuffle(&mut list);
    list.sort_unstable();
    assert_eq!(list, [1, 2, 3, 4, 5]);
}
