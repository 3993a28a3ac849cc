//! The other servers of the cell: who they are, and the notifications between them.

pub mod membership;
pub mod notification;
pub mod notifications;
