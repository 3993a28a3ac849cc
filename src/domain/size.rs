//! Bounds of the size of an assignment.

/// The assignment limit of a worker that specifies none: the default message limit of gRPC in
/// Python, Go, Java and C++.
pub const DEFAULT_ASSIGNMENT_BYTES: i32 = 4 << 20;
/// The smallest limit that a worker may specify. Every worker takes an assignment of this size.
pub const MIN_ASSIGNMENT_BYTES: i32 = 64 << 10;
/// The largest limit that a worker may specify, and so the largest assignment.
pub const MAX_ASSIGNMENT_BYTES: i32 = 64 << 20;
/// The error code of a step whose assignment exceeds the limit of each connected worker.
pub const ASSIGNMENT_TOO_LARGE: &str = "ASSIGNMENT_TOO_LARGE";

/// A number of bytes in readable units, such as `4.8 MiB`.
pub fn bytes(n: i32) -> String {
    let n = f64::from(n);
    match n {
        _ if n >= 1_048_576.0 => format!("{:.1} MiB", n / 1_048_576.0),
        _ if n >= 1_024.0 => format!("{:.1} KiB", n / 1_024.0),
        _ => format!("{n} bytes"),
    }
}

/// A length as the integer of a column; a larger one is cut to `i32::MAX`.
pub fn of(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_with_a_unit() {
        assert_eq!(bytes(1_023), "1023 bytes");
        assert_eq!(bytes(64 << 10), "64.0 KiB");
        assert_eq!(bytes(DEFAULT_ASSIGNMENT_BYTES), "4.0 MiB");
        assert_eq!(of(usize::MAX), i32::MAX);
    }
}
