//! The collector against a store under a simulated clock: one step at a time, and by seed against everything else at once.

mod histories;
mod simulated;
mod steps;
mod world;
