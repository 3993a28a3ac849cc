//! The worker SDK against a server whose messages come from the test, over a real socket.

mod cancel;
mod connection;
mod packaging;
mod server;
mod shutdown;
mod steps;
