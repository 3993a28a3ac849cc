//! The worker SDK against a server that says what a test tells it to, over a real socket.
#![cfg(feature = "server")]

mod cancel;
mod connection;
mod packaging;
mod server;
mod shutdown;
mod steps;
