//! The position of a step in its template.

use crate::limits::MAX_STEPS_PER_TEMPLATE;

const _: () = assert!(
    MAX_STEPS_PER_TEMPLATE <= i16::MAX as usize,
    "a step index fits a smallint of Postgres"
);

/// The position of a step in [`Template::steps`](crate::Template::steps), below
/// [`MAX_STEPS_PER_TEMPLATE`]. So it converts to each of the integer types that stand for it, and
/// only the way back can fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepIndex(u16);

/// No template has a step at this position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no template has a step at position {0}")]
pub struct NoSuchStep(i128);

impl StepIndex {
    /// The first step, which is the planner of a template that has one.
    pub const FIRST: StepIndex = StepIndex(0);

    /// The positions of the first `count` steps.
    pub fn all(count: usize) -> impl DoubleEndedIterator<Item = StepIndex> + ExactSizeIterator {
        // The bound makes the cast exact.
        (0..count.min(MAX_STEPS_PER_TEMPLATE) as u16).map(StepIndex)
    }

    /// The position after this one.
    ///
    /// # Errors
    /// This is the last position that a template may have.
    pub fn next(self) -> Result<StepIndex, NoSuchStep> {
        StepIndex::try_from(self.0 + 1)
    }
}

impl From<StepIndex> for usize {
    fn from(StepIndex(index): StepIndex) -> usize {
        index.into()
    }
}

impl From<StepIndex> for u16 {
    fn from(StepIndex(index): StepIndex) -> u16 {
        index
    }
}

impl From<StepIndex> for i16 {
    fn from(StepIndex(index): StepIndex) -> i16 {
        // Exact, since the bound of the index is below that of the type.
        index.cast_signed()
    }
}

impl TryFrom<usize> for StepIndex {
    type Error = NoSuchStep;

    fn try_from(index: usize) -> Result<Self, NoSuchStep> {
        match u16::try_from(index) {
            Ok(short) if index < MAX_STEPS_PER_TEMPLATE => Ok(StepIndex(short)),
            _ => Err(NoSuchStep(index as i128)),
        }
    }
}

impl TryFrom<u16> for StepIndex {
    type Error = NoSuchStep;

    fn try_from(index: u16) -> Result<Self, NoSuchStep> {
        usize::from(index).try_into()
    }
}

impl TryFrom<i16> for StepIndex {
    type Error = NoSuchStep;

    fn try_from(index: i16) -> Result<Self, NoSuchStep> {
        let positive = u16::try_from(index).map_err(|_| NoSuchStep(index.into()))?;
        positive.try_into()
    }
}

/// For comparison with a literal.
impl PartialEq<usize> for StepIndex {
    fn eq(&self, other: &usize) -> bool {
        usize::from(*self) == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_converts_without_loss() {
        let last = StepIndex::try_from(MAX_STEPS_PER_TEMPLATE - 1).expect("the last");
        assert_eq!(
            (usize::from(last), u16::from(last), i16::from(last)),
            (999, 999, 999)
        );
        assert_eq!(StepIndex::try_from(999_i16), Ok(last));
        assert_eq!(StepIndex::all(usize::MAX).next_back(), Some(last));
        assert_eq!(StepIndex::FIRST.next(), StepIndex::try_from(1_u16));
    }

    #[test]
    fn position_that_no_template_has_is_refused() {
        let message = |found: Result<StepIndex, NoSuchStep>| found.expect_err("none").to_string();
        let last = StepIndex::try_from(999_u16).expect("the last");
        assert_eq!(
            message(last.next()),
            "no template has a step at position 1000"
        );
        assert_eq!(
            message(StepIndex::try_from(-1_i16)),
            "no template has a step at position -1"
        );
        assert!(StepIndex::try_from(usize::MAX).is_err());
        assert!(StepIndex::try_from(u16::MAX).is_err());
    }
}
