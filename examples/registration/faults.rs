//! Assigns faults to calls: a pure function of (seed, operation, user, n-th call).
//!
//! It depends neither on the clock nor on the order of arrival, so two runs under one seed meet the
//! same faults however they are scheduled. Hiccups are short, as transient faults are: they affect
//! the first one to three calls for a user. The longest stays below the retry limit of the step
//! that makes the call.

use std::time::Duration;

/// A call to one of the services, with a fault rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    CreateUser,
    FindUser,
    UpdateUser,
    CreateProfile,
    CreatePreferences,
    SendWelcome,
}

/// The fault of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The work is done, and the answer comes after the caller has given up.
    Stall,
    /// 500; nothing was done.
    ServerError,
    /// 503; nothing was done.
    Unavailable,
    /// 429 with `Retry-After: 1`; nothing was done.
    RateLimited,
    /// The work is done, and the connection breaks before the answer: the caller cannot tell.
    BreakAfterWork,
    /// The service restarts: the connection breaks, nothing was done.
    Restart,
}

/// The user service's knowledge of an e-mail before its registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prior {
    /// Nothing: the normal case.
    New,
    /// The same user: an earlier registration that broke after its first call.
    SameData,
    /// Another user under the same e-mail.
    OtherData,
}

/// The frequency and the length of the hiccups of one operation.
struct Rate {
    /// Users per 1,000 that meet a hiccup here.
    per_mille: u64,
    /// The most calls in a row that one hiccup affects.
    longest: u64,
    /// The kinds and their weights.
    kinds: &'static [(Fault, u64)],
}

/// E-mails per 1,000 that are known beforehand: with equal data, and with other data.
const KNOWN_SAME_PER_MILLE: u64 = 20;
const KNOWN_OTHER_PER_MILLE: u64 = 20;

/// Each answer takes a little time: the shortest and the longest time in milliseconds.
const LATENCY_MS: (u64, u64) = (5, 25);

impl Operation {
    /// The rates: together they make a flow without retries fail about as often as the article
    /// states (40 %).
    fn rate(self) -> Rate {
        use Fault::{BreakAfterWork, RateLimited, Restart, ServerError, Stall, Unavailable};
        let (per_mille, longest, kinds): (_, _, &'static [_]) = match self {
            // Step limit 3, shared by the create and, for a known e-mail, the find: one failure
            // each.
            Self::CreateUser => (
                85,
                1,
                &[
                    (ServerError, 3),
                    (Stall, 2),
                    (BreakAfterWork, 2),
                    (Restart, 3),
                ],
            ),
            Self::FindUser => (150, 1, &[(ServerError, 1), (Unavailable, 1), (Restart, 1)]),
            // Step limit 2.
            Self::UpdateUser => (
                60,
                1,
                &[
                    (ServerError, 3),
                    (Stall, 1),
                    (BreakAfterWork, 3),
                    (Restart, 3),
                ],
            ),
            // Step limit 3. The article's billing service times out.
            Self::CreateProfile => (
                120,
                2,
                &[
                    (Stall, 5),
                    (Unavailable, 2),
                    (BreakAfterWork, 2),
                    (Restart, 1),
                ],
            ),
            // Step limit 3. The article's preferences service answers 500.
            Self::CreatePreferences => (
                100,
                2,
                &[
                    (ServerError, 6),
                    (Stall, 1),
                    (BreakAfterWork, 1),
                    (Restart, 2),
                ],
            ),
            // Step limit 5. The article's notification service limits its rate.
            Self::SendWelcome => (
                150,
                3,
                &[
                    (RateLimited, 6),
                    (Unavailable, 2),
                    (Stall, 1),
                    (BreakAfterWork, 1),
                ],
            ),
        };
        Rate {
            per_mille,
            longest,
            kinds,
        }
    }
}

/// The faults of one seed.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    seed: u64,
}

impl FaultPlan {
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The fault of the `call`-th call (from 1) of `operation` for the user `who`, if there is one.
    pub fn fault(&self, operation: Operation, who: &str, call: u32) -> Option<Fault> {
        let rate = operation.rate();
        let hiccup = self.draw(&["hiccup", operation.name(), who]) % 1000 < rate.per_mille;
        if !hiccup || u64::from(call) > self.hiccup_length(operation, who, rate.longest) {
            return None;
        }
        let total: u64 = rate.kinds.iter().map(|(_, weight)| weight).sum();
        let mut pick = self.draw(&["kind", operation.name(), who, &call.to_string()]) % total;
        for (fault, weight) in rate.kinds {
            if pick < *weight {
                return Some(*fault);
            }
            pick -= weight;
        }
        None
    }

    /// How long a service takes for this call.
    pub fn latency(&self, operation: Operation, who: &str, call: u32) -> Duration {
        let (shortest, longest) = LATENCY_MS;
        let draw = self.draw(&["latency", operation.name(), who, &call.to_string()]);
        Duration::from_millis(shortest + draw % (longest - shortest + 1))
    }

    /// The user service's knowledge of an e-mail before its registration.
    pub fn prior(&self, email: &str) -> Prior {
        match self.draw(&["prior", email]) % 1000 {
            n if n < KNOWN_SAME_PER_MILLE => Prior::SameData,
            n if n < KNOWN_SAME_PER_MILLE + KNOWN_OTHER_PER_MILLE => Prior::OtherData,
            _ => Prior::New,
        }
    }

    /// Three of four hiccups affect one call; each further call is rarer by the same factor.
    fn hiccup_length(&self, operation: Operation, who: &str, longest: u64) -> u64 {
        let draw = self.draw(&["length", operation.name(), who]);
        (1..longest)
            .find(|n| (draw >> (2 * n)) & 3 != 0)
            .unwrap_or(longest)
    }

    fn draw(&self, words: &[&str]) -> u64 {
        draw(self.seed, words)
    }
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateUser => "create_user",
            Self::FindUser => "find_user",
            Self::UpdateUser => "update_user",
            Self::CreateProfile => "create_profile",
            Self::CreatePreferences => "create_preferences",
            Self::SendWelcome => "send_welcome",
        }
    }
}

/// 64 even bits from a seed and some words, the same on every machine and in every release: FNV-1a
/// over the words, then the finaliser of SplitMix64 (Steele, Lea, Flood 2014), because FNV alone
/// mixes its low bits badly.
pub fn draw(seed: u64, words: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in words.iter().flat_map(|word| word.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Operation; 6] = [
        Operation::CreateUser,
        Operation::FindUser,
        Operation::UpdateUser,
        Operation::CreateProfile,
        Operation::CreatePreferences,
        Operation::SendWelcome,
    ];

    fn faults(plan: FaultPlan, order: impl Iterator<Item = u32>) -> Vec<(u32, Option<Fault>)> {
        let mut met: Vec<_> = order
            .flat_map(|n| ALL.map(|op| (n, plan.fault(op, &format!("usr_{}", n / 4), n % 4 + 1))))
            .collect();
        met.sort_by_key(|(n, _)| *n);
        met
    }

    #[test]
    fn faults_of_one_seed_are_equal_in_any_order() {
        let forward = faults(FaultPlan::new(42), 0..4000);
        let backward = faults(FaultPlan::new(42), (0..4000).rev());
        assert_eq!(forward, backward);
        assert_ne!(forward, faults(FaultPlan::new(43), 0..4000));
    }

    #[test]
    fn hiccup_passes_within_its_maximum() {
        let plan = FaultPlan::new(7);
        for op in ALL {
            let longest = u32::try_from(op.rate().longest).unwrap();
            let spoiled = (0..2000).map(|n| format!("usr_{n}")).map(|who| {
                let calls: Vec<_> = (1..=longest + 2)
                    .map(|call| plan.fault(op, &who, call))
                    .collect();
                assert!(
                    calls[longest as usize..].iter().all(Option::is_none),
                    "{op:?} {calls:?}"
                );
                calls.iter().flatten().count()
            });
            let spoiled: Vec<_> = spoiled.collect();
            assert_eq!(
                spoiled.iter().max(),
                Some(&(longest as usize)),
                "{op:?} reaches its longest"
            );
        }
    }

    #[test]
    fn hiccups_occur_at_their_rate() {
        let plan = FaultPlan::new(1);
        for op in ALL {
            let met = (0..10_000)
                .filter(|n| plan.fault(op, &format!("usr_{n}"), 1).is_some())
                .count() as u64;
            let expected = op.rate().per_mille * 10;
            assert!(
                met.abs_diff(expected) < 150,
                "{op:?}: {met} of 10,000, expected about {expected}"
            );
        }
    }
}
