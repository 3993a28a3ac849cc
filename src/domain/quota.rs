//! Quota: how a limit on a service is divided among the servers. Each server has a share of it; the
//! shares together never exceed the limit.

/// A server's quota share of a service's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaShare {
    pub share_id: i32,
    pub count: i32,
    pub term: i64,
}

/// The request of a server.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub service_id: i32,
    /// The admission version that the server knows.
    pub version: i64,
    /// The concurrency limit of the whole cluster, if any.
    pub limit: Option<u32>,
    /// Whether the circuit is half-open, so that the share consists of probes, each for one start.
    pub probing: bool,
    /// How many concurrent steps the server could admit.
    pub wanted: u32,
    pub rate: Option<Rate>,
}

/// A rate limit, and the request against it.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: f64,
    /// Capacity of the token bucket.
    pub bucket: f64,
    pub wanted: f64,
    /// Tokens that were taken and not used.
    pub returned: f64,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Renewed {
    pub share: Option<QuotaShare>,
    pub tokens: f64,
    /// Seconds until the next token, if fewer were granted than requested.
    pub next_token: Option<f64>,
}

/// The tokens of a rate limit after a renewal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refill {
    pub granted: f64,
    /// Tokens that stay in the bucket.
    pub left: f64,
    /// Seconds until the next token, if fewer were granted than requested.
    pub next_token: Option<f64>,
}

impl Rate {
    /// Refills a bucket that had `tokens` so many `seconds` ago, and takes the wanted ones.
    pub fn refill(&self, tokens: f64, seconds: f64) -> Refill {
        let saved = (tokens + self.returned + seconds * self.per_second).min(self.bucket);
        let granted = self.wanted.min(saved.floor()).max(0.0);
        let left = saved - granted;
        Refill {
            granted,
            left,
            next_token: (granted < self.wanted).then(|| (1.0 - left).max(0.0) / self.per_second),
        }
    }
}

/// A share as the database has it, with the attempts that run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldShare {
    pub count: u32,
    pub wanted: u32,
    pub used: u32,
    /// Whether its server still renews it.
    pub alive: bool,
}

/// The new counts of the probes of a half-open circuit after the holder at `me` asked, and the
/// number of probes that stay undivided of `left`. Unused probes of a server that is gone are
/// divided again. `running` attempts count against the limit as well.
pub fn divide_probes(
    ask: &Renewal,
    me: usize,
    shares: &[HeldShare],
    mut left: u32,
    running: u32,
) -> (Vec<u32>, u32) {
    let mut counts: Vec<u32> = shares.iter().map(|share| share.count).collect();
    for (i, share) in shares.iter().enumerate() {
        if i != me && !share.alive {
            left += share.count;
            counts[i] = 0;
        }
    }
    let room = ask.limit.map_or(u32::MAX, |limit| {
        limit.saturating_sub(running + counts.iter().sum::<u32>())
    });
    let taken = ask.wanted.saturating_sub(counts[me]).min(left).min(room);
    counts[me] += taken;
    (counts, left - taken)
}

/// The new counts of a concurrency limit after the holder at `me` asked.
pub fn divide_limit(ask: &Renewal, me: usize, shares: &[HeldShare], unaccounted: u32) -> Vec<u32> {
    let holder = |share: &HeldShare| Holder {
        count: share.count,
        wanted: if share.alive { share.wanted } else { 0 },
        used: share.used,
    };
    let holders: Vec<Holder> = shares.iter().map(holder).collect();
    let limit = ask.limit.unwrap_or(u32::MAX);
    distribute(limit, me, &holders, unaccounted)
}

/// One server's claim to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The number of steps that the server may run now.
    pub count: u32,
    /// The number of steps that the server could run; 0 after the server ended.
    pub wanted: u32,
    /// Attempts that run on this quota share.
    pub used: u32,
}

/// The new quota shares of all holders after the holder at `me` asked. Each other holder gives up
/// the part beyond its fair share, and `me` receives the free part of its own fair share.
///
/// A running attempt is free only after its end, whichever quota share it runs on; `unaccounted`
/// attempts run on none.
pub fn distribute(limit: u32, me: usize, holders: &[Holder], unaccounted: u32) -> Vec<u32> {
    let wanted: Vec<u32> = holders.iter().map(|h| h.wanted).collect();
    let shares = share(limit, &wanted);
    let mut counts: Vec<u32> = holders
        .iter()
        .zip(&shares)
        .map(|(h, share)| h.count.min(*share))
        .collect();
    // Another holder takes up its reduced share or its running attempts, whichever is more; `me`
    // takes up only the attempts beyond its own share, since `counts[me]` covers the rest.
    let taken = |(i, h): (usize, &Holder)| {
        if i == me {
            h.used.saturating_sub(shares[me])
        } else {
            counts[i].max(h.used)
        }
    };
    let taken: u32 = holders.iter().enumerate().map(taken).sum();
    counts[me] = shares[me].min(limit.saturating_sub(taken + unaccounted));
    counts
}

/// Divides a limit fairly: each claimant gets as much as it wants if the limit suffices for all,
/// and otherwise an equal share of the rest that smaller claimants leave.
pub fn share(limit: u32, wanted: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_unstable_by_key(|i| (wanted[*i], std::cmp::Reverse(*i)));
    let mut shares = vec![0; wanted.len()];
    let (mut left, mut claimants) = (limit, u32::try_from(wanted.len()).unwrap_or(u32::MAX));
    for i in order {
        // The claimants are sorted by demand, so a claimant with a small demand leaves its rest to
        // the larger ones, and the remainder of each division stays in `left` for the last
        // claimants.
        let equal = left.checked_div(claimants).unwrap_or(0);
        shares[i] = wanted[i].min(equal);
        left -= shares[i];
        claimants -= 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal(limit: Option<u32>, wanted: u32) -> Renewal {
        Renewal {
            service_id: 1,
            version: 1,
            limit,
            probing: true,
            wanted,
            rate: None,
        }
    }

    #[test]
    fn probes_are_divided_within_the_limit_and_those_of_a_dead_server_again() {
        let share = |count, alive| HeldShare {
            count,
            wanted: 9,
            used: 0,
            alive,
        };
        let shares = [share(1, true), share(2, false)];
        let divided =
            |limit, wanted, running| divide_probes(&renewal(limit, wanted), 0, &shares, 3, running);
        assert_eq!(divided(None, 9, 7), (vec![6, 0], 0));
        assert_eq!(divided(None, 2, 7), (vec![2, 0], 4));
        assert_eq!(divided(Some(4), 9, 1), (vec![3, 0], 3));
        assert_eq!(divided(Some(4), 9, 9), (vec![1, 0], 5));
        assert_eq!(divided(None, 0, 0), (vec![1, 0], 5));
    }

    #[test]
    fn bucket_is_refilled_up_to_its_capacity_and_gives_whole_tokens() {
        let rate = |wanted| Rate {
            per_second: 2.0,
            bucket: 5.0,
            wanted,
            returned: 1.0,
        };
        let refill = rate(3.0).refill(0.5, 1.0);
        assert_eq!(
            (refill.granted, refill.left, refill.next_token),
            (3.0, 0.5, None)
        );
        let refill = rate(9.0).refill(0.5, 100.0);
        assert_eq!((refill.granted, refill.left), (5.0, 0.0));
        assert_eq!(refill.next_token, Some(0.5));
    }

    #[test]
    fn distribution_excludes_running_steps() {
        let holder = |count, wanted, used| Holder {
            count,
            wanted,
            used,
        };
        // A single holder gets all that it wants, less the unaccounted attempts.
        assert_eq!(distribute(10, 0, &[holder(0, 50, 0)], 0), [10]);
        assert_eq!(distribute(10, 0, &[holder(0, 50, 0)], 4), [6]);
        // A second holder asks: the first gives up half, and the second gets the part of that half
        // on which no attempt runs.
        assert_eq!(
            distribute(10, 1, &[holder(10, 50, 10), holder(0, 50, 0)], 0),
            [5, 0]
        );
        assert_eq!(
            distribute(10, 1, &[holder(5, 50, 7), holder(0, 50, 0)], 0),
            [5, 3]
        );
        // A holder whose server ended keeps only the share of its running attempts.
        assert_eq!(
            distribute(10, 1, &[holder(10, 0, 2), holder(0, 50, 0)], 0),
            [0, 8]
        );
        // The limit was lowered.
        assert_eq!(distribute(3, 0, &[holder(10, 50, 10)], 0), [0]);
        assert_eq!(distribute(3, 0, &[holder(3, 50, 3)], 0), [3]);
    }

    #[test]
    fn distribution_of_a_limit_never_exceeds_it() {
        assert_eq!(share(10, &[3, 100]), [3, 7]);
        assert_eq!(share(10, &[100, 100, 100]), [4, 3, 3]);
        assert_eq!(share(1, &[5, 5]), [1, 0]);
        assert_eq!(share(10, &[1, 2]), [1, 2]);
        assert_eq!(share(0, &[1]), [0]);
        assert!(share(7, &[]).is_empty());
        for limit in 0..40 {
            for wanted in [[0, 1, 30], [5, 5, 5], [40, 0, 2]] {
                let shares = share(limit, &wanted);
                let total: u32 = shares.iter().sum();
                assert_eq!(
                    total,
                    limit.min(wanted.iter().sum()),
                    "{limit} {wanted:?}: {shares:?}"
                );
            }
        }
    }
}
