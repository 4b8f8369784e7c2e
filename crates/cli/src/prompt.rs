//! What a person is asked, and where secrets are read from: the terminal without echo, a file, or stdin. Never an argument.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use wharf_domain::Plain;

use crate::exit::Refusal;

/// Whether somebody is there to ask.
pub fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks for a line.
pub fn line(question: &str, how_else: &str) -> anyhow::Result<String> {
    if !interactive() {
        return Err(Refusal::usage(
            format!("{} is needed, and there is no terminal to ask on", question.to_lowercase()),
            how_else,
        )
        .into());
    }
    eprint!("{question}: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Asks for yes; everything else is no.
pub fn yes(question: &str) -> anyhow::Result<bool> {
    let answer = line(&format!("{question} [y/N]"), "add --yes")?;
    Ok(matches!(answer.to_lowercase().as_str(), "y" | "yes"))
}

/// A password: from `file` (`-` is stdin), else asked for without echo. One newline at its end is not part of it.
pub fn password(question: &str, file: Option<&Path>) -> anyhow::Result<String> {
    let text = match file {
        Some(file) => {
            let bytes = bytes(file)?;
            bytes.expose_str().context("the password is not UTF-8 text")?.to_owned()
        }
        None if interactive() => {
            rpassword::prompt_password(format!("{question}: ")).context("the terminal cannot be read")?
        }
        None => {
            return Err(Refusal::usage(
                "a password is needed, and there is no terminal to ask on",
                "add --password-file FILE, or --password-file - to read it from stdin",
            )
            .into());
        }
    };
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Refusal::usage("the password is empty", "nothing was sent; try again").into());
    }
    Ok(text.to_owned())
}

/// A new password: asked for twice where it is typed.
pub fn new_password(question: &str, file: Option<&Path>) -> anyhow::Result<String> {
    let first = password(question, file)?;
    if file.is_none()
        && rpassword::prompt_password("Once more: ").context("the terminal cannot be read")? != first
    {
        return Err(Refusal::usage("the two are not the same", "nothing was changed; try again").into());
    }
    Ok(first)
}

/// The bytes of a file, or of stdin for `-`, as they are.
pub fn bytes(file: &Path) -> anyhow::Result<Plain> {
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).context("stdin cannot be read")?;
    } else {
        bytes = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    }
    Ok(Plain::new(bytes))
}

/// Text of a file, or of stdin for `-`.
pub fn text(file: &Path) -> anyhow::Result<String> {
    let bytes = bytes(file)?;
    Ok(bytes.expose_str().with_context(|| format!("{} is not UTF-8 text", file.display()))?.to_owned())
}
