//! `wharf secret …`. A value is typed without echo, or comes from a file or stdin; it is never an argument.

use std::path::PathBuf;

use anyhow::Context as _;
use wharf_domain::{Code, Name};
use wharf_wire::api::{self, Encoding, Sensitive};

use super::common::{self, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::exit::Refusal;
use crate::output::{Format, note, print};
use crate::prompt;

/// Secrets of a space
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a secret, or give it a new value
    #[command(after_help = "Examples:
  wharf secret set api-key                         asks for the value
  wharf secret set api-key --file key.txt          the file's bytes as they are
  printf %s \"$KEY\" | wharf secret set api-key --file -")]
    Set {
        #[arg(value_parser = common::name, add = crate::complete::secrets())]
        name: Name,
        /// Read the value from a file (`-` is stdin), byte for byte
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// Fail if the secret is there already
        #[arg(long)]
        new: bool,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the space's secrets, without values
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show secrets in full, without values
    Get {
        #[arg(required = true, add = crate::complete::secrets())]
        names: Vec<String>,
    },
    /// Print a secret's value; needs the verb read-values and is audited
    #[command(after_help = "Examples:
  wharf secret reveal api-key
  wharf secret reveal certificate > certificate.der    byte for byte")]
    Reveal {
        #[arg(add = crate::complete::secrets())]
        name: String,
    },
    /// Delete secrets
    Delete {
        #[arg(required = true, add = crate::complete::secrets())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

fn value(name: &Name, file: Option<&PathBuf>) -> anyhow::Result<(Sensitive, Encoding)> {
    let bytes = match file {
        Some(file) => prompt::bytes(file)?,
        None if prompt::interactive() => {
            wharf_domain::Plain::new(prompt::password(&format!("Value of {name}"), None)?.into_bytes())
        }
        None => {
            return Err(Refusal::usage(
                "a value is needed, and there is no terminal to ask on",
                "add --file FILE, or --file - to read it from stdin",
            )
            .into());
        }
    };
    if bytes.is_empty() {
        return Err(
            Refusal::usage("the value is empty", "nothing was sent; a secret has at least one byte").into()
        );
    }
    let (text, encoding) = Encoding::encode(bytes.expose());
    Ok((Sensitive::new(text), encoding))
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let secrets = &space.secrets();
        match self {
            Self::Set { name, file, new, labels } => {
                let (value, encoding) = value(&name, file.as_ref())?;
                let create = api::CreateSecret {
                    name: name.clone(),
                    value: value.clone(),
                    encoding,
                    labels: labels.clone().read()?,
                };
                let secret = match secrets.create(&create).await {
                    Err(e) if !new && e.is(Code::AlreadyExists) => {
                        // The value is new; labels are set beside those that are there.
                        let labels: std::collections::BTreeMap<String, String> = labels.read()?.into();
                        let labels: api::LabelsPatch =
                            labels.into_iter().map(|(k, v)| (k, Some(v))).collect();
                        let labels = (!labels.is_empty()).then_some(labels);
                        secrets
                            .patch(
                                name.as_str(),
                                &api::PatchSecret { value: Some(value), encoding, labels },
                                None,
                            )
                            .await?
                    }
                    other => other?,
                };
                ctx.out.made(&secret)
            }
            Self::List { listing } => {
                let none = format!("no secrets in space {}", space.name());
                common::list::<api::Secret>(
                    ctx,
                    secrets.list_where(listing.filters()?),
                    &listing.paging,
                    &none,
                )
                .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { secrets.get(&n).await }).await,
            Self::Reveal { name } => {
                let revealed = space.reveal_secret(&name).await?;
                if matches!(ctx.out.format, Format::Json | Format::Yaml) {
                    return ctx.out.value(&revealed);
                }
                let bytes = revealed
                    .encoding
                    .decode(revealed.value.expose())
                    .context("the value is not what its encoding says")?;
                print(&bytes)?;
                if ctx.out.width.is_some() && !bytes.ends_with(b"\n") {
                    note("");
                }
                Ok(())
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "secret", |n| async move { secrets.delete(&n).await }).await
            }
        }
    }
}
