//! `kr` as its users run it: the program itself, against a server that behaves and misbehaves on demand.
#![expect(clippy::unwrap_used, clippy::panic, reason = "that is how a test fails")]

mod chat;
mod fake_server;
mod generate;
mod program;
mod scripts;
mod terminal;
