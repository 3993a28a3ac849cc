//! Repeatable random numbers.

/// The seed of every run without `TASKER_TEST_SEED`.
const SEED: u64 = 0x7a5c_e12a;

/// The next number of SplitMix64.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub struct Random(u64);

impl Random {
    /// From the environment or the fixed seed, which it prints. `stream` keeps the tests' numbers
    /// independent of each other.
    pub fn seeded(stream: &str) -> Self {
        let seed =
            std::env::var("TASKER_TEST_SEED").map_or(SEED, |text| text.parse().expect("a number"));
        eprintln!("{stream}: TASKER_TEST_SEED={seed}");
        Self(stream.bytes().fold(seed, |state, byte| {
            state.wrapping_mul(31).wrapping_add(byte.into())
        }))
    }

    pub fn number(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % u64::try_from(end).unwrap()).unwrap()
    }

    pub fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.byte()).collect()
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Damages bytes in one to three places: replaced, flipped, removed, inserted, or cut off.
    pub fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] = self.byte(),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, self.byte()),
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}
