//! HTTP/JSON, gRPC-Web, and the pages on the server's port, over real sockets and a real Postgres.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod circuits;
mod connections;
mod events;
mod guard;
mod gzip;
mod openapi;
mod problems;
mod site;
mod starting;
mod tasks;
mod templates;
mod web;
