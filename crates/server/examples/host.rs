//! The real `wharf-host`, built beside the tests that need one.

fn main() -> std::process::ExitCode {
    match wharf_host::Options::parse(std::env::args().skip(1)) {
        Ok(options) => match wharf_host::run(&options) {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                std::process::ExitCode::FAILURE
            }
        },
        Err((text, code)) => {
            eprint!("{text}");
            std::process::ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}
