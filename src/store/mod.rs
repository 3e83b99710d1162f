//! The object store.

/// The object store. Cheap to clone.
#[derive(Clone)]
pub struct Store {}
