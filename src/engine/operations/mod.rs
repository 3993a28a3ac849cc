//! Commands of operators and clients, up to the answer: those about tasks wait for the settle loop,
//! the others have transactions of their own.

pub mod bulk;
pub mod circuit;
pub mod command;
pub mod pause;
pub mod retire;
pub mod template;
