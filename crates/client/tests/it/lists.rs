//! Lists over pages.

use futures_util::TryStreamExt as _;
use serde_json::json as value;
use wharf_client::List;
use wharf_domain::Code;

use crate::peer::{Peer, Request, json, problem};

fn page_of(request: &Request) -> crate::peer::Answer {
    let query = request.line.split(['?', ' ']).nth(2).unwrap_or_default();
    let of =
        |name: &str| query.split('&').find_map(|p| p.strip_prefix(&format!("{name}="))).map(str::to_owned);
    let start: u32 = of("cursor").map_or(0, |c| c.parse().unwrap());
    let limit: u32 = of("limit").map_or(3, |l| l.parse().unwrap());
    let items: Vec<u32> = (start..10.min(start + limit)).collect();
    let next = (start + limit < 10).then(|| (start + limit).to_string());
    json(200, &value!({"items": items, "next_cursor": next}))
}

fn list(peer: &Peer) -> List {
    peer.client().session_list()
}

trait Lists {
    fn session_list(&self) -> List;
}

impl Lists for wharf_client::Client {
    fn session_list(&self) -> List {
        self.space("lab").sessions().list_where(vec![("state", "idle".into())])
    }
}

#[tokio::test]
async fn everything_comes_once_and_in_order() {
    let peer = Peer::answering(page_of).await;
    let all: Vec<u32> = list(&peer).all::<u32>().try_collect().await.unwrap();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_eq!(peer.seen().len(), 4);
    assert!(peer.seen().iter().all(|r| r.line.contains("state=idle")), "filters stay on every page");
    let (taken, more) = list(&peer).take::<u32>(None).await.unwrap();
    assert_eq!((taken, more), (all, false));
}

#[tokio::test]
async fn no_more_is_fetched_than_was_asked_for_and_the_rest_is_not_hidden() {
    let peer = Peer::answering(page_of).await;
    let (taken, more) = list(&peer).take::<u32>(Some(4)).await.unwrap();
    assert_eq!((taken, more), (vec![0, 1, 2, 3], true));
    assert_eq!(peer.seen().len(), 1);
    let (taken, more) = list(&peer).take::<u32>(Some(10)).await.unwrap();
    assert_eq!((taken.len(), more), (10, false));
}

#[tokio::test]
async fn a_page_that_fails_ends_the_list_with_its_error() {
    let peer = Peer::script(vec![
        json(200, &value!({"items": [1], "next_cursor": "x"})),
        problem(403, "forbidden", false, vec![]),
    ])
    .await;
    let mut stream = Box::pin(list(&peer).all::<u32>());
    assert_eq!(stream.try_next().await.unwrap(), Some(1));
    assert!(stream.try_next().await.unwrap_err().is(Code::Forbidden));
}
