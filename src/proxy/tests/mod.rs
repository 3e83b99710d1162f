//! The proxy as clients see it: before they are authenticated (`handshake`), while they log in (`login`), and after
//! (`session`); the relay also by itself (`relay`).

mod handshake;
mod login;
mod raw_client;
mod relay;
mod session;
