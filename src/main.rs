//! The `offshoot` command: everything it can do is in `offshoot::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    offshoot::cli::run()
}
