//! The proxy as clients see it: before they are authenticated (`handshake`), while they log in (`login`), and after (`session`).

mod handshake;
mod login;
mod session;
