//! Registrations of workers with values out of bounds.

use tasker::proto::Register;
use tonic::Code::InvalidArgument;

use super::{Says, refuses, register, says};
use crate::target::Target;

/// A registration, and a part of the expected message.
type Case = (Register, &'static str);

fn many(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("h{i}")).collect()
}

/// One byte more than a name may have.
fn long() -> String {
    "x".repeat(256)
}

fn names_out_of_bounds() -> Vec<Case> {
    vec![
        (
            Register {
                name: String::new(),
                ..register()
            },
            "register.name: empty",
        ),
        (
            Register {
                name: long(),
                ..register()
            },
            "register.name: expected at most 255",
        ),
        (
            Register {
                name: "a\0b".into(),
                ..register()
            },
            "control characters",
        ),
        (
            Register {
                name: "x".repeat(10 << 20),
                ..register()
            },
            "register.name: expected at most 255",
        ),
        (
            Register {
                build_id: long(),
                ..register()
            },
            "register.build_id",
        ),
        (
            Register {
                build_id: "\n".into(),
                ..register()
            },
            "register.build_id",
        ),
    ]
}

fn handlers_out_of_bounds() -> Vec<Case> {
    vec![
        (
            Register {
                handlers: vec![],
                ..register()
            },
            "register.handlers: 0 given: expected 1 to 1000",
        ),
        (
            Register {
                handlers: many(1_001),
                ..register()
            },
            "register.handlers: 1001 given",
        ),
        (
            Register {
                handlers: many(200_000),
                ..register()
            },
            "register.handlers: 200000 given",
        ),
        (
            Register {
                handlers: vec![String::new()],
                ..register()
            },
            "register.handlers: empty",
        ),
        (
            Register {
                handlers: vec!["a".into(), String::new()],
                ..register()
            },
            "register.handlers: empty",
        ),
        (
            Register {
                handlers: vec![long()],
                ..register()
            },
            "register.handlers: expected at most 255",
        ),
        (
            Register {
                handlers: vec!["\0".into()],
                ..register()
            },
            "control characters",
        ),
    ]
}

fn namespaces_out_of_bounds() -> Vec<Case> {
    vec![
        (
            Register {
                namespaces: many(101),
                ..register()
            },
            "register.namespaces: 101 given",
        ),
        (
            Register {
                namespaces: vec![String::new()],
                ..register()
            },
            "register.namespaces: empty",
        ),
        (
            Register {
                namespaces: vec!["\u{7f}".into()],
                ..register()
            },
            "control characters",
        ),
    ]
}

fn labels_and_leases_out_of_bounds() -> Vec<Case> {
    let labels = |n: usize| many(n).into_iter().map(|l| (l.clone(), l)).collect();
    let label = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    vec![
        (
            Register {
                labels: labels(65),
                ..register()
            },
            "register.labels: 65 given",
        ),
        (
            Register {
                labels: label("", "v"),
                ..register()
            },
            "register.labels: empty",
        ),
        (
            Register {
                labels: label("k", &long()),
                ..register()
            },
            "register.labels",
        ),
        (
            Register {
                labels: label("k\0", "v"),
                ..register()
            },
            "register.labels",
        ),
        (
            Register {
                held_leases: vec![String::new()],
                ..register()
            },
            "not a lease token",
        ),
        (
            Register {
                held_leases: vec!["x".into(); 40_001],
                ..register()
            },
            "register.held_leases: 40001 given",
        ),
    ]
}

fn numbers_and_ids_out_of_bounds() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for slots in [0, -1, 10_001, 1_000_000, i32::MAX, i32::MIN] {
        let register = Register {
            max_concurrent_steps: slots,
            ..register()
        };
        cases.push((register, "is out of bounds: expected 1 to 10000"));
    }
    for id in [
        "x",
        "0",
        " ",
        "\0",
        "0190b5a0-7b3c-7def-8123-456789abcdeg",
        &"f".repeat(100_000),
    ] {
        let register = Register {
            previous_worker_id: id.into(),
            ..register()
        };
        cases.push((register, "register.previous_worker_id: not a worker id"));
    }
    cases
}

#[tokio::test]
async fn registers_out_of_bounds_are_refused() {
    let mut target = Target::new().await;
    let cases = [
        names_out_of_bounds(),
        handlers_out_of_bounds(),
        namespaces_out_of_bounds(),
        labels_and_leases_out_of_bounds(),
        numbers_and_ids_out_of_bounds(),
    ];
    for (register, expected) in cases.into_iter().flatten() {
        let case = format!("{expected}: {:.80?}", register.name);
        refuses(
            &mut target,
            &case,
            vec![says(Says::Register(register))],
            InvalidArgument,
            expected,
        )
        .await;
    }
    let workers = target
        .bench
        .db
        .connect()
        .await
        .query_one("SELECT count(*) FROM workers", &[])
        .await
        .unwrap();
    assert_eq!(workers.get::<_, i64>(0), 0, "nobody registered");
    target.end(34).await;
}
