//! Counts in columns of type `int`: the one place where they are converted, and saturate.

/// The count in a column. A negative one, which no statement writes, reads as zero, as an error
/// would end the round in which a server looks after all services.
pub(super) fn count(column: i32) -> u32 {
    column.max(0).cast_unsigned()
}

/// The column for a count. A larger count is stored as the maximum of the column, which no number
/// of steps, calls or openings reaches: a limit may be set beyond it, and then limits nothing.
pub(super) fn column(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_beyond_its_column_saturates() {
        assert_eq!([0, 7, u32::MAX].map(column), [0, 7, i32::MAX]);
        assert_eq!(
            [0, 7, i32::MAX, -1].map(count),
            [0, 7, i32::MAX.cast_unsigned(), 0]
        );
    }
}
