//! The applicants: made-up users, the same for the same seed.

use serde::Serialize;

use crate::faults::{FaultPlan, Prior, draw};

const FIRST: [&str; 12] = [
    "Ada", "Grace", "Edsger", "Barbara", "Alan", "Radia", "Donald", "Frances", "Ken", "Hedy",
    "Tony", "Margaret",
];
const LAST: [&str; 10] = [
    "Okafor",
    "Lindqvist",
    "Moreau",
    "Tanaka",
    "Silva",
    "Novak",
    "Haddad",
    "Kim",
    "Weber",
    "Rossi",
];

/// One registration as a person fills it in.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Applicant {
    pub email: String,
    pub name: String,
    pub plan: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    pub marketing_consent: bool,
}

/// The first `count` applicants of a seed.
pub fn applicants(seed: u64, count: usize) -> Vec<Applicant> {
    (1..=count).map(|number| applicant(seed, number)).collect()
}

/// `count` applicants after the first `after` of a seed, all unknown to every service.
pub fn newcomers(seed: u64, after: usize, count: usize) -> Vec<Applicant> {
    let plan = FaultPlan::new(seed);
    let others = (after + 1..).map(|number| applicant(seed, number));
    others
        .filter(|person| plan.prior(&person.email) == Prior::New)
        .take(count)
        .collect()
}

fn applicant(seed: u64, number: usize) -> Applicant {
    let number_text = number.to_string();
    let pick = |what: &str, of: u64| draw(seed, &["applicant", what, &number_text]) % of;
    let choose =
        |what: &str, names: &[&'static str]| names[pick(what, names.len() as u64) as usize];
    let (first, last) = (choose("first", &FIRST), choose("last", &LAST));
    Applicant {
        email: format!(
            "{}.{}.{number}@example.com",
            first.to_lowercase(),
            last.to_lowercase()
        ),
        name: format!("{first} {last}"),
        plan: match pick("plan", 10) {
            0 => "enterprise",
            1 | 2 => "pro",
            _ => "free",
        },
        phone: (pick("phone", 2) == 0).then(|| format!("+1555{:07}", pick("digits", 10_000_000))),
        marketing_consent: pick("consent", 3) == 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn population_of_one_seed_is_stable_with_unique_emails() {
        let people = applicants(42, 500);
        assert_eq!(people, applicants(42, 500));
        assert_eq!(people[..100], applicants(42, 100));
        assert_eq!(
            people
                .iter()
                .map(|a| &a.email)
                .collect::<HashSet<_>>()
                .len(),
            500
        );
    }

    #[test]
    fn newcomers_differ_from_the_population() {
        let (plan, known) = (FaultPlan::new(42), applicants(42, 100));
        let new = newcomers(42, 100, 200);
        assert_eq!(new.len(), 200);
        assert!(
            new.iter()
                .all(|person| !known.contains(person) && plan.prior(&person.email) == Prior::New)
        );
    }
}
