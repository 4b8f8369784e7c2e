//! What lists, gets and deletes of all nouns have in common.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;

use serde::de::DeserializeOwned;
use wharf_client::{EventStream, List};
use wharf_domain::{Labels, Name};
use wharf_wire::api::{LabelsPatch, WatchEvent};

use crate::context::Ctx;
use crate::exit::{self, Refusal, Silent};
use crate::output::format::{parse_label_change, parse_pair};
use crate::output::table::Widths;
use crate::output::{Format, Show, Style, note, plain, print};
use crate::prompt;

/// How much of a list to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Paging {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    pub limit: usize,
    /// Show all, however many there are
    #[arg(long)]
    pub all: bool,
}

impl Paging {
    pub fn most(&self) -> Option<usize> {
        (!self.all).then_some(self.limit)
    }
}

/// Which of a list to show.
#[derive(Clone, Debug, clap::Args)]
pub struct Listing {
    /// Only those with these labels (a=b,c)
    #[arg(short, long, value_name = "SELECTOR")]
    labels: Option<String>,
    #[command(flatten)]
    pub paging: Paging,
}

impl Listing {
    /// As query parameters. A selector that cannot be one is refused here, before anything is asked.
    pub fn filters(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        if let Some(labels) = &self.labels {
            labels.parse::<wharf_domain::Selector>()?;
        }
        Ok(self.labels.iter().map(|l| ("labels", l.clone())).collect())
    }
}

/// Labels of something new.
#[derive(Clone, Debug, clap::Args)]
pub struct NewLabels {
    /// Label to find it by (repeat for more)
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    labels: Vec<(String, String)>,
}

impl NewLabels {
    pub fn read(self) -> anyhow::Result<Labels> {
        let map: BTreeMap<_, _> = self.labels.into_iter().collect();
        Ok(Labels::try_from(map)?)
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Labels to set and to remove.
#[derive(Clone, Debug, clap::Args)]
pub struct LabelChanges {
    /// Label to set (KEY=VALUE) or to remove (KEY-); repeat for more
    #[arg(short, long = "label", value_name = "KEY=VALUE|KEY-", value_parser = parse_label_change)]
    labels: Vec<(String, Option<String>)>,
}

impl LabelChanges {
    pub fn patch(self) -> Option<LabelsPatch> {
        (!self.labels.is_empty()).then(|| self.labels.into_iter().collect())
    }
}

/// Leave to delete several things at once.
#[derive(Clone, Debug, clap::Args)]
pub struct Sure {
    /// Do not ask before several are deleted
    #[arg(short, long)]
    pub yes: bool,
    /// Only say what would be deleted
    #[arg(long)]
    pub dry_run: bool,
}

/// Prints a list; what is left out, or that there is nothing, is said on stderr.
pub async fn list<T: Show + DeserializeOwned>(
    ctx: &Ctx,
    list: List,
    paging: &Paging,
    none: &str,
) -> anyhow::Result<()> {
    let (items, more) = list.take::<T>(paging.most()).await?;
    if items.is_empty() && ctx.out.format == Format::Table {
        note(none);
        return Ok(());
    }
    ctx.out.list(&items)?;
    if more {
        note(format!("there are more than {}; --all shows them, --limit N more of them", paging.limit));
    }
    Ok(())
}

/// Prints the things of those names: one in full, several as a list. Those that fail are named, the others shown.
pub async fn get<T: Show, F: Future<Output = wharf_client::Result<T>>>(
    ctx: &Ctx,
    names: &[String],
    fetch: impl Fn(String) -> F,
) -> anyhow::Result<()> {
    if let [name] = names {
        return ctx.out.one(&fetch(name.clone()).await?);
    }
    let items = RefCell::new(Vec::new());
    let failed = each(names, |name| {
        let (item, items) = (fetch(name), &items);
        async move {
            let item = item.await?;
            items.borrow_mut().push(item);
            Ok(())
        }
    })
    .await;
    ctx.out.list(&items.into_inner())?;
    failed
}

/// Does the same to each, goes on past failures, and ends with the exit code of the first.
pub async fn each<F: Future<Output = anyhow::Result<()>>>(
    names: &[String],
    mut act: impl FnMut(String) -> F,
) -> anyhow::Result<()> {
    let mut code = None;
    for name in names {
        if let Err(error) = act(name.clone()).await {
            if names.len() == 1 {
                return Err(error);
            }
            code = code.or(Some(exit::code(&error)));
            note(exit::describe(&error.context(name.clone())));
        }
    }
    code.map_or(Ok(()), |code| Err(Silent(code).into()))
}

/// Deletes each after having made sure. `kind` is the singular noun.
pub async fn delete<F: Future<Output = wharf_client::Result<()>>>(
    names: &[String],
    sure: &Sure,
    kind: &str,
    act: impl Fn(String) -> F,
) -> anyhow::Result<()> {
    if sure.dry_run {
        for name in names {
            note(format!("would delete {kind} {name}"));
        }
        return Ok(());
    }
    confirm(sure.yes, names.len(), &format!("delete {} {kind}s: {}", names.len(), names.join(", ")))?;
    each(names, |name| {
        let done = act(name.clone());
        async move {
            done.await?;
            note(format!("{kind} {name} deleted"));
            Ok(())
        }
    })
    .await
}

/// Several at once need a yes: typed, or as `--yes`.
pub fn confirm(yes: bool, count: usize, what: &str) -> anyhow::Result<()> {
    if yes || count < 2 {
        return Ok(());
    }
    if !prompt::interactive() {
        return Err(Refusal::usage(format!("this would {what}"), "add --yes if that is meant").into());
    }
    if prompt::yes(&format!("{what}?"))? {
        Ok(())
    } else {
        Err(Refusal::failed("nothing was deleted").into())
    }
}

/// Reads a name given for something new.
pub fn name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|e: wharf_domain::Error| e.public)
}

/// Reads what parses to one of the domain's words.
pub fn word<T: std::str::FromStr<Err = wharf_domain::Error>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: wharf_domain::Error| e.public)
}

/// Shows changes of a list as they happen, until interrupted. `first` are the things as they are now.
pub async fn watch<T: Show + DeserializeOwned>(
    ctx: &Ctx,
    first: &[T],
    mut stream: EventStream,
) -> anyhow::Result<()> {
    let rows: Vec<_> = first.iter().map(|i| i.row(ctx.out.now())).collect();
    let mut widths = Widths::of(T::HEAD, &rows, ctx.out.width);
    if ctx.out.format == Format::Table {
        print(widths.head(T::HEAD, ctx.out.width, ctx.out.colour).as_bytes())?;
    }
    for item in first {
        print(ctx.out.more_text(item, &mut widths)?.as_bytes())?;
    }
    loop {
        let event = tokio::select! {
            event = stream.next_json::<WatchEvent<T>>() => event,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        let Some(event) = event.transpose()? else { return Ok(()) };
        match (&event.object, ctx.out.format) {
            (_, Format::Json) => print((serde_json::to_string(&event)? + "\n").as_bytes())?,
            (Some(object), _) => print(ctx.out.more_text(object, &mut widths)?.as_bytes())?,
            (None, Format::Table) => {
                let line = format!("{} {}\n", plain(&event.name), crate::show::word(&event.change));
                print(Style::Dim.paint(&line, ctx.out.colour).as_bytes())?;
            }
            // Where a line is the thing as it is, a thing that is no more has none.
            (None, _) => {}
        }
    }
}
