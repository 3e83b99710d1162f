//! Offshoot: writable, isolated, copy-on-write branches of a Postgres, made by connecting to them.
//!
//! The modules stand in this order, and each may import only those to its right
//! (`tests/architecture.rs` holds it):
//!
//! `cli → server → admin → proxy → masking → sources → branch → compute → filesystem → pageserver → store → model`
//!
//! `settings` and `telemetry` are plain data and registration, importable by all.
//! ARCHITECTURE.md draws the way of a byte through them.

pub mod admin;
pub mod branch;
pub mod cli;
pub mod compute;
pub mod filesystem;
pub mod masking;
pub mod model;
pub mod pageserver;
pub mod proxy;
pub mod server;
pub mod settings;
pub mod sources;
pub mod store;
pub mod telemetry;
