//! Arguments that several commands share.

pub mod listen;
pub mod reference;
pub mod target;
pub mod when;
pub mod who;
