//! The `tasker` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    tasker::cli::main()
}
