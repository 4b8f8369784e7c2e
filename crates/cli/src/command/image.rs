//! `wharf image …`. `build` is not here: the binary adds it, because it works on this machine and not through the API.

use std::path::PathBuf;

use anyhow::Context as _;
use wharf_domain::Name;
use wharf_wire::api;

use super::common::{self, Paging, Sure};
use crate::context::Ctx;
use crate::output::progress;

/// Images sessions start from
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the images the space may use
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Show images in full
    Get {
        #[arg(required = true, add = crate::complete::images())]
        names: Vec<String>,
    },
    /// Make an image from the tar archive of a root filesystem
    #[command(after_help = "Examples:
  wharf image import rootfs.tar base
  wharf image import rootfs.tar.zst base
  docker export container | wharf image import - custom")]
    Import {
        /// The archive (tar, or tar.gz or tar.zst where the server takes it); `-` is stdin
        file: PathBuf,
        /// What to call the image
        #[arg(value_parser = common::name)]
        name: Name,
    },
    /// Delete a version of images, the newest when none is named; one in use is kept and named
    Delete {
        #[arg(required = true, add = crate::complete::images())]
        names: Vec<String>,
        /// This version (SHA-256 of its archive, as `get` shows it)
        #[arg(long, value_name = "SHA256")]
        digest: Option<String>,
        /// The one this runtime holds (native, docker)
        #[arg(long)]
        runtime: Option<String>,
        #[command(flatten)]
        sure: Sure,
    },
}

impl Command {
    pub async fn run(self, ctx: &Ctx) -> anyhow::Result<()> {
        let space = ctx.space()?;
        let images = &space.images();
        match self {
            Self::List { paging } => {
                let none = "no images; `wharf image build base` or `wharf image import FILE NAME` makes one";
                common::list::<api::Image>(ctx, images.list(), &paging, none).await
            }
            Self::Get { names } => common::get(ctx, &names, |n| async move { images.get(&n).await }).await,
            Self::Import { file, name } => {
                let (body, length, bar) = if file.as_os_str() == "-" {
                    let bar = progress::bar("importing", None);
                    (super::session::stream_of(crate::stdin::reader(), bar.clone()), None, bar)
                } else {
                    let source = tokio::fs::File::open(&file)
                        .await
                        .with_context(|| format!("{} cannot be read", file.display()))?;
                    let meta = source.metadata().await?;
                    anyhow::ensure!(meta.is_file(), "{} is not a file", file.display());
                    let bar = progress::bar("importing", Some(meta.len()));
                    (super::session::stream_of(source, bar.clone()), Some(meta.len()), bar)
                };
                let image = space.import_image(&name, body, length).await;
                bar.finish_and_clear();
                ctx.out.made(&image?)
            }
            Self::Delete { names, digest, runtime, sure } => {
                let (space, digest, runtime) = (&space, digest.as_deref(), runtime.as_deref());
                common::delete(&names, &sure, "image", |n| async move {
                    space.delete_image(&n, digest, runtime).await
                })
                .await
            }
        }
    }
}
