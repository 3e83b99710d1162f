//! Where a project's data comes from.
