//! Masks: what takes the place of a value that must not leave production.
//!
//! They work on the text form of a value as `COPY ... TO` gives it, unescaped, between the reading of a row and its writing. Each is a pure
//! function of the value, the key and the name of a domain: equal values of one domain get equal masks, in every table and every
//! run, so joins go on matching; without the key nobody can tell which value a mask came from, or try candidates.
//!
//! Invariants: NULL is never given, and the empty string stays empty. Nothing here reads a clock or an entropy source. No input makes a mask panic,
//! and no error and no `Debug` shows a value or a key.

mod calendar;
mod decimal;
mod formats;
mod key;
mod masker;
mod names;
mod network;
mod numbers;
mod permutation;
mod spec;
mod statistics;

#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;

pub use key::{DomainKey, KeyError, MaskingKey};
pub use masker::{Changes, Longest, MaskError, MaskStream, Masker, STREAMED, Telling, ValueType};
pub use spec::MaskSpec;
