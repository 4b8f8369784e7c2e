//! `wharf image build`: makes an image from a recipe on this machine and hands it to the jailer.
//!
//! Local by nature: it runs the recipe's script as root. While a jailer runs, the archive goes to it over its socket;
//! otherwise it is unpacked where the next jailer looks.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use wharf_chassis::Settings;
use wharf_chassis::settings::Runtime;
use wharf_jail::image::build::{build_cached, cached_path};
use wharf_jail::image::{Built, Progress, Recipe, Store, build};
use wharf_ports::SandboxRuntime as _;
use wharf_ports::runtime::ImageInfo;

/// Recipes that come with the program.
const SHIPPED: &[(&str, &str, &str)] = &[
    ("base", include_str!("../../../images/base/recipe.toml"), include_str!("../../../images/base/setup.sh")),
    (
        "desktop",
        include_str!("../../../images/desktop/recipe.toml"),
        include_str!("../../../images/desktop/setup.sh"),
    ),
];

#[derive(clap::Args)]
pub struct BuildArgs {
    /// A recipe that comes with wharf (base, desktop), or a directory with a recipe.toml
    recipe: String,
    /// Keep the archive here, and use it again while the recipe is the same
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Only make the archive
    #[arg(long)]
    no_import: bool,
    /// Build even if the archive is there: takes newer packages in
    #[arg(long)]
    fresh: bool,
}

pub fn run(args: &BuildArgs, settings: &Settings) -> Result<()> {
    if !crate::is_root() {
        bail!("only root can make a root filesystem: run `sudo wharf image build {}`", args.recipe);
    }
    let recipe = load(&args.recipe)?;
    let cache = args.cache.clone().unwrap_or_else(|| settings.data_dir.join("image-cache"));
    let bar = Bar::new();
    let built = make(&recipe, &cache, args.fresh, &bar)?;
    bar.done();
    let state = if built.cached {
        "from the cache".to_owned()
    } else {
        format!("built in {:.1} s", built.took.as_secs_f64())
    };
    eprintln!("{}: {} MiB, {state}", built.path.display(), built.bytes / (1024 * 1024));
    if args.no_import {
        println!("{}", built.path.display());
        return Ok(());
    }
    let image = import(&recipe, &built.path, settings, &bar)?;
    bar.done();
    println!("{}@{}", image.image.name, image.image.digest);
    Ok(())
}

fn load(name: &str) -> Result<Recipe> {
    if let Some(recipe) = shipped(name) {
        return Ok(recipe?);
    }
    let dir = Path::new(name);
    if !dir.join("recipe.toml").is_file() {
        let shipped: Vec<_> = SHIPPED.iter().map(|(name, ..)| *name).collect();
        bail!("{name} is neither a directory with a recipe.toml nor one of {}", shipped.join(", "));
    }
    Ok(Recipe::load(dir, &mut known)?)
}

fn shipped(name: &str) -> Option<Result<Recipe, wharf_jail::step::Step>> {
    let (_, recipe, script) = SHIPPED.iter().find(|(shipped, ..)| *shipped == name)?;
    Some(Recipe::parse(recipe, &mut |_| Ok((*script).to_owned()), &mut known))
}

/// What a recipe may extend.
fn known(name: &wharf_domain::Name) -> Option<Recipe> {
    shipped(name.as_str())?.ok()
}

fn make(recipe: &Recipe, cache: &Path, fresh: bool, bar: &Bar) -> Result<Built> {
    let mut show = |p: Progress| bar.show(p);
    Ok(if fresh {
        build(recipe, &cached_path(cache, recipe), &mut show)?
    } else {
        build_cached(recipe, cache, &mut show)?
    })
}

/// Unpacks the archive under the recipe's name, through the jailer where one runs.
fn import(recipe: &Recipe, archive: &Path, settings: &Settings, bar: &Bar) -> Result<ImageInfo> {
    let file = std::fs::File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    if settings.runtimes.get(&recipe.name).unwrap_or(&settings.runtime) == &Runtime::Docker {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        bar.say("handing it to Docker Engine");
        let docker = wharf_jail::NativeRuntime::called("docker", settings.docker_socket());
        let imported = runtime.block_on(docker.import_image(&recipe.name, file));
        return imported
            .context("images of the runtime docker are imported while wharf runs: start it with `wharf up`");
    }
    let socket = settings.jailer_socket();
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        bar.say("unpacking");
        return Ok(
            runtime.block_on(wharf_jail::NativeRuntime::new(&socket).import_image(&recipe.name, file))?
        );
    }
    std::fs::create_dir_all(&settings.data_dir)?;
    let store = Store::open(&settings.jail_dir())?;
    Ok(store.import(&recipe.name, file, &mut |p| bar.show(p))?)
}

/// The images in the data directory, read without the jailer.
pub fn local_images(settings: &Settings) -> Result<Vec<ImageInfo>> {
    let dir = settings.jail_dir();
    if !dir.try_exists().with_context(|| format!("cannot look into {}", dir.display()))? {
        return Ok(Vec::new());
    }
    Ok(Store::open(&dir)?.list()?)
}

/// A bar on stderr, where it is a terminal; a line a stage where it is not.
struct Bar(ProgressBar);

impl Bar {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{msg:40} {wide_bar} {pos}/{len} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Self(ProgressBar::new(0).with_style(style))
    }

    fn show(&self, progress: Progress) {
        match progress {
            Progress::Stage { number, of, name } => {
                self.0.set_length(of.into());
                self.0.set_position(number.into());
                self.say(name);
            }
            Progress::Bytes { done, total } => {
                self.0.set_length(total);
                self.0.set_position(done);
                self.0.set_message("unpacking");
            }
            Progress::Line(_) => self.0.tick(),
        }
    }

    fn say(&self, what: &'static str) {
        if self.0.is_hidden() {
            eprintln!("{what} …");
        }
        self.0.set_message(what);
    }

    fn done(&self) {
        self.0.finish_and_clear();
    }
}
