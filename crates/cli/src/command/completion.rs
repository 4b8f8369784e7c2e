//! `wharf completion SHELL`

use clap_complete::env::Shells;

use crate::output::print;

/// Print the shell script that turns on completion
///
/// Names of sessions, spaces, secrets and the rest come from the server while you type.
#[derive(Debug, clap::Args)]
#[command(after_help = "Turn it on for good:
  bash   echo 'source <(wharf completion bash)' >> ~/.bashrc
  zsh    echo 'source <(wharf completion zsh)' >> ~/.zshrc      (behind compinit)
  fish   echo 'wharf completion fish | source' >> ~/.config/fish/config.fish")]
pub struct Completion {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub fn run(self) -> anyhow::Result<()> {
        let name = match self.shell {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        };
        let shells = Shells::builtins();
        let shell = shells
            .completer(name)
            .ok_or_else(|| crate::exit::Refusal::failed(format!("no completion for {name}")))?;
        // By name, not by path: the program that is found on the user's path answers, whatever version that becomes.
        let mut script = Vec::new();
        shell.write_registration("COMPLETE", "wharf", "wharf", "wharf", &mut script)?;
        print(&script)
    }
}
