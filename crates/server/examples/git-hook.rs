//! What git's hooks run, built beside the tests whose server is not the `wharf` program.

fn main() -> std::process::ExitCode {
    // As `wharf git-hook NAME` has it.
    wharf_git::hook::run(&std::env::args().nth(2).unwrap_or_default())
}
