//! `wharf user …`

use std::path::PathBuf;

use wharf_domain::Name;
use wharf_wire::api::{self, Sensitive};

use super::common::{self, LabelChanges, Listing, NewLabels, Sure};
use crate::context::Ctx;
use crate::output::note;
use crate::prompt;

/// People who may log in
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a user; the password is asked for, or read from a file or stdin
    #[command(after_help = "Examples:
  wharf user create alice --display-name 'Alice Liddell'
  wharf binding create --role developer --to user/alice --in lab")]
    Create {
        #[arg(value_parser = common::name)]
        name: Name,
        /// What people call the user
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Read the password from a file (`-` is stdin)
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        #[command(flatten)]
        labels: NewLabels,
    },
    /// Show the users
    List {
        #[command(flatten)]
        listing: Listing,
    },
    /// Show users in full
    Get {
        #[arg(required = true, add = crate::complete::users())]
        names: Vec<String>,
    },
    /// Change a user
    Update {
        #[arg(add = crate::complete::users())]
        name: String,
        /// What people call the user
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
        /// Shut the user out at once, tokens included
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Let the user in again
        #[arg(long)]
        enable: bool,
        #[command(flatten)]
        labels: LabelChanges,
    },
    /// Give a user a new password; ends all logins of the user
    Passwd {
        #[arg(add = crate::complete::users())]
        name: String,
        /// Read the password from a file (`-` is stdin)
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Delete users
    Delete {
        #[arg(required = true, add = crate::complete::users())]
        names: Vec<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

/// `--enable` and `--disable` as the API's one field.
pub fn disabled(enable: bool, disable: bool) -> Option<bool> {
    match (enable, disable) {
        (true, _) => Some(false),
        (_, true) => Some(true),
        _ => None,
    }
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let users = &ctx.client()?.users();
        match self {
            Self::Create { name, display_name, password_file, labels } => {
                let password =
                    prompt::new_password(&format!("Password for {name}"), password_file.as_deref())?;
                let labels = labels.read()?;
                let body = api::CreateUser { name, password: Sensitive::new(password), display_name, labels };
                ctx.out.made(&users.create(&body).await?)
            }
            Self::List { listing } => {
                common::list::<api::User>(
                    ctx,
                    users.list_where(listing.filters()?),
                    &listing.paging,
                    "no users",
                )
                .await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { users.get(&n).await }).await,
            Self::Update { name, display_name, disable, enable, labels } => {
                let disabled = disabled(enable, disable);
                let patch = api::PatchUser { password: None, display_name, disabled, labels: labels.patch() };
                ctx.out.made(&users.patch(&name, &patch, None).await?)
            }
            Self::Passwd { name, password_file } => {
                let password =
                    prompt::new_password(&format!("New password for {name}"), password_file.as_deref())?;
                let patch =
                    api::PatchUser { password: Some(Sensitive::new(password)), ..api::PatchUser::default() };
                users.patch(&name, &patch, None).await?;
                note(format!("the password of {name} is changed; all logins of {name} have ended"));
                Ok(())
            }
            Self::Delete { names, sure } => {
                common::delete(&names, &sure, "user", |n| async move { users.delete(&n).await }).await
            }
        }
    }
}
