//! Masked imports, end to end: what a base of them has, what it has not, and what is refused. Raw bases and the copy without rules, which are the
//! same pipe, are here, too.

#[path = "../fixture/mod.rs"]
mod fixture;

mod bases;
mod clinic;
mod commands;
mod generated;
mod kills;
mod logical_copy;
mod memory;
mod postgres_18;
mod properties;
mod raw_bases;
mod refusals;
mod resumes;
mod search;
mod superuser;
