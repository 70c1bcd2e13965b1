//! `kr` as its users run it: the program itself, against a server and a hub that behave and misbehave on demand.
#![expect(clippy::unwrap_used, clippy::panic, reason = "that is how a test fails")]

mod chat;
mod documents;
mod fake_hub;
mod fake_server;
mod generate;
mod program;
mod pull;
mod scripts;
mod terminal;
