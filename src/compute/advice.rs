//! What to do about a server that did not start, from what it printed. English only: a cluster may choose another language
//! for its messages, and then its own words must do.

/// Fragments of the server's messages, the more telling ones first, with what to do.
const KNOWN: [(&str, &str); 12] = [
    ("No space left on device", "free disk space below server.data_dir"),
    ("could not access file", "a library that the settings preload is missing; install its package on this node"),
    (
        "could not load library",
        "a library that the settings preload does not load; install the one for this Postgres version",
    ),
    (
        "invalid value for parameter \"lc_",
        "this node lacks a locale that the source uses; generate it (locale-gen, or localedef) and restart",
    ),
    ("maximum number of prepared transactions reached", "raise max_prepared_transactions in the project's parameters"),
    ("unrecognized configuration parameter", "remove the parameter from the project's parameters in the config"),
    ("is outside the valid range for parameter", "correct the value in the project's parameters in the config"),
    ("invalid value for parameter", "correct the value in the project's parameters in the config"),
    (
        "could not map anonymous shared memory",
        "lower shared_buffers in the project's parameters, or give the node more memory",
    ),
    ("could not create shared memory segment", "the kernel's limit kernel.shmmni is reached; raise it"),
    (
        "database files are incompatible with server",
        "the Postgres found on this node is not the one that wrote the data",
    ),
    ("has wrong ownership", "compute.user must own the data directory; was it changed since the branch was made?"),
];

/// What the log's end suggests to do.
pub(super) fn for_log(tail: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(fragment, _)| tail.contains(fragment)).map(|(_, advice)| *advice)
}
