//! What builds keep: counted, deleted, listed and watched; and bytes that go away under whoever is about to name them.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use wharf_domain::manifest::Place;
use wharf_domain::rbac::Verb;
use wharf_domain::{Code, NameOrId};
use wharf_store::agents::NewBuild;
use wharf_store::agents::blobs::{Blob, Hasher};
use wharf_store::agents::work::BuildTask;
use wharf_store::published::NewPublished;
use wharf_store::sessions::NewSession;
use wharf_store::{Actor, Caller, Credential, RequestMeta};

use crate::lab::Lab;

const AGENTS: &str = "/v1/spaces/lab/agents";
const SESSIONS: &str = "/v1/spaces/lab/sessions";
const MIB: usize = 1024 * 1024;

/// Agents whose builds no operator works on: the tests do.
struct Shelf {
    lab: Lab,
    owner: wharf_domain::OperatorId,
}

impl Shelf {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let admin = lab.admin().await;
        admin.post("/v1/spaces", json!({"name": "lab"})).await.expect(201);
        admin.post(AGENTS, json!({"name": "greeter"})).await.expect(201);
        Self { lab, owner: wharf_domain::OperatorId::new() }
    }

    async fn caller(&self) -> Caller {
        let admin = self.lab.admin().await;
        let credential = Credential::Bearer(wharf_domain::Plain::new(admin.token.unwrap()));
        let meta = RequestMeta { request_id: wharf_domain::RequestId::new(), address: None };
        self.lab.store.authenticate(credential, meta).await.unwrap()
    }

    async fn blob(&self, seed: u8, bytes: usize) -> Blob {
        let mut writer = self.lab.store.blob_writer(1 << 30).await.unwrap();
        let mut hash = Hasher::default();
        let content = vec![seed; bytes];
        hash.update(&content);
        writer.write(&content).await.unwrap();
        writer.finish(&hash.digest()).await.unwrap()
    }

    async fn queue(&self, source: Option<Blob>) -> Result<(), wharf_domain::Error> {
        let caller = self.caller().await;
        let mut scope = self.lab.store.scope(&caller, &"lab".parse().unwrap()).await?;
        let agent = scope.agents().permit(&NameOrId::Name("greeter".parse().unwrap()), Verb::Get).await?;
        let allowed = scope.builds().allow(&agent.name).await?;
        let permit = scope.sessions().allow(None).await?;
        let session = scope.sessions().create(&permit, NewSession::of("base".parse().unwrap())).await?;
        let new =
            NewBuild { source: json!({"upload": "x"}), blob: source, asked: Place::default(), egress: None };
        scope.builds().create(&allowed, &agent, &session, new).await?;
        scope.commit().await
    }

    async fn claim(&self) -> BuildTask {
        let work = self.lab.store.system(Actor::Operator).builds(self.owner);
        work.claim(8).await.unwrap().expect("a build to work on")
    }

    /// A build that became a version of so many bytes.
    async fn version(&self, seed: u8, bytes: usize) -> Result<i32, wharf_domain::Error> {
        self.queue(None).await?;
        let (work, task) = (self.lab.store.system(Actor::Operator).builds(self.owner), self.claim().await);
        let made = work
            .succeed(&task, &self.blob(seed, bytes).await, &json!({"kind": "command", "entry": ["x"]}))
            .await;
        if let Err(e) = &made {
            work.fail(&task, &e.public).await.unwrap();
        }
        made
    }

    async fn used(&self) -> u64 {
        let usage = self.lab.admin().await.get("/v1/spaces/lab/usage").await.expect(200);
        usage["package_bytes"]["used"].as_u64().unwrap()
    }

    async fn quota(&self, most: Option<usize>) {
        let patch = json!({"quotas": {"package_bytes": most}});
        self.lab.admin().await.patch("/v1/spaces/lab", patch).await.expect(200);
    }

    async fn sweep(&self) -> wharf_store::Swept {
        self.lab.store.system(Actor::Retention).sweep().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_builds_keep_counts_and_what_does_not_fit_is_refused() {
    let shelf = Shelf::new().await;
    shelf.version(1, 3 * MIB).await.unwrap();
    assert_eq!(shelf.used().await, 3 << 20);
    shelf.quota(Some(4 * MIB)).await;
    let over = shelf.version(2, 2 * MIB).await.unwrap_err();
    assert_eq!((over.code, over.field.as_deref()), (Code::QuotaExceeded, Some("package_bytes")));
    assert!(over.public.contains("delete-version"), "{}", over.public);
    assert_eq!(shelf.used().await, 3 << 20, "nothing of it stays");

    // A source counts while its build is open; one that does not fit begins none.
    let over = shelf.queue(Some(shelf.blob(3, 2 * MIB).await)).await.unwrap_err();
    assert_eq!(over.code, Code::QuotaExceeded);
    shelf.queue(Some(shelf.blob(4, MIB).await)).await.unwrap();
    assert_eq!(shelf.used().await, 4 << 20);
    let work = shelf.lab.store.system(Actor::Operator).builds(shelf.owner);
    let task = shelf.claim().await;
    // A cache too; where it does not fit the one before stays.
    let over = work.keep_cache(&task, "a", &shelf.blob(5, MIB).await).await.unwrap_err();
    assert_eq!(over.code, Code::QuotaExceeded);
    shelf.quota(None).await;
    for (seed, key) in [(6, "a"), (7, "b"), (8, "c"), (9, "c")] {
        work.keep_cache(&task, key, &shelf.blob(seed, MIB).await).await.unwrap();
    }
    assert_eq!(shelf.used().await, 6 << 20, "the two newest caches");
    work.fail(&task, "enough").await.unwrap();
    assert_eq!(shelf.used().await, 5 << 20);

    shelf.lab.admin().await.delete(&format!("{AGENTS}/greeter")).await.expect(204);
    assert_eq!(shelf.used().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_deleted_unless_it_is_active_or_some_session_has_it() {
    let shelf = Shelf::new().await;
    for seed in 1..=3 {
        shelf.version(seed, MIB).await.unwrap();
    }
    let admin = shelf.lab.admin().await;
    let body = json!({"name": "user", "agent": {"package": "greeter", "version": 1}});
    admin.post(SESSIONS, body).await.expect(201);
    let at = |version: u32| format!("{AGENTS}/greeter/versions/{version}");
    let refused = admin.delete(&at(3)).await.refused(409, "in_use");
    assert!(refused["detail"].as_str().unwrap().contains("active"), "{refused}");
    let refused = admin.delete(&at(1)).await.refused(409, "in_use");
    assert!(refused["detail"].as_str().unwrap().contains("user"), "{refused}");
    admin.delete(&at(9)).await.refused(404, "not_found");
    admin.delete(&format!("{AGENTS}/greeter/versions/x")).await.refused(404, "not_found");
    assert_eq!(shelf.used().await, 3 << 20);
    admin.delete(&at(2)).await.expect(204);
    admin.delete(&at(2)).await.refused(404, "not_found");
    assert_eq!(shelf.used().await, 2 << 20);
    let wrong = admin.post(&format!("{AGENTS}/greeter/activate"), json!({"version": 2})).await;
    wrong.refused(422, "invalid_reference");
    // Several agents: the second one's package is used as well.
    let both = json!([{"name": "first", "kind": "shell"}, {"package": "greeter", "version": 3}]);
    admin.post(SESSIONS, json!({"name": "both", "agents": both})).await.expect(201);
    admin.post(&format!("{AGENTS}/greeter/activate"), json!({"version": 1})).await.expect(200);
    let refused = admin.delete(&at(3)).await.refused(409, "in_use");
    assert!(refused["detail"].as_str().unwrap().contains("both"), "{refused}");
    shelf.lab.db.clock.advance(Duration::from_secs(3700));
    assert_eq!(shelf.sweep().await.blobs, 1, "the bytes of the deleted one");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_come_in_pages_newest_first() {
    let shelf = Shelf::new().await;
    for seed in 1..=5 {
        shelf.version(seed, 10).await.unwrap();
    }
    let admin = shelf.lab.admin().await;
    let mut seen = Vec::new();
    let mut path = format!("{AGENTS}/greeter/versions?limit=2");
    loop {
        let page = admin.get(&path).await.expect(200);
        let numbers = page["items"].as_array().unwrap().iter().map(|v| v["version"].as_i64().unwrap());
        seen.extend(numbers);
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("{AGENTS}/greeter/versions?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, [5, 4, 3, 2, 1]);
    let all = admin.get(&format!("{AGENTS}/greeter/versions")).await.expect(200);
    assert_eq!((all["items"].as_array().unwrap().len(), &all["next_cursor"]), (5, &Value::Null));
    let agents = admin.get(AGENTS).await.expect(200);
    assert_eq!(agents["next_cursor"], Value::Null);
    for wrong in ["limit=0", "limit=501", "cursor=xyz", "cursor=__________________________8", "watch=true"] {
        let refused = admin.get(&format!("{AGENTS}/greeter/versions?{wrong}")).await;
        assert_eq!(refused.status, 422, "{wrong}: {}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_agents_builds_repositories_and_copies_are_watched_from_where_a_page_stood() {
    let shelf = Shelf::new().await;
    let admin = shelf.lab.admin().await;
    let from = |page: Value| page["resource_version"].as_str().unwrap().to_owned();
    let agents = from(admin.get(AGENTS).await.expect(200));
    let builds = from(admin.get("/v1/spaces/lab/builds").await.expect(200));
    let repos = from(admin.get("/v1/spaces/lab/repos").await.expect(200));
    admin.get("/v1/spaces/lab/published").await.expect(200)["resource_version"].as_str().unwrap();
    shelf.version(1, 10).await.unwrap();
    admin.post(AGENTS, json!({"name": "other", "labels": {"team": "ml"}})).await.expect(201);
    admin.post("/v1/spaces/lab/repos", json!({"name": "code"})).await.expect(201);

    let mut watch = admin.events(&format!("{AGENTS}?watch=true&resource_version={agents}")).await;
    let first = watch.next().await.unwrap();
    assert_eq!((first.event.as_str(), &first.data["name"]), ("modified", &json!("greeter")), "{first:?}");
    assert_eq!(first.data["object"]["active_version"], 1);
    let second = watch.next().await.unwrap();
    assert_eq!((second.event.as_str(), &second.data["name"]), ("added", &json!("other")));
    admin.delete(&format!("{AGENTS}/other")).await.expect(204);
    let gone = watch.next().await.unwrap();
    assert_eq!((gone.event.as_str(), &gone.data["name"]), ("deleted", &json!("other")));
    let of_team = format!("{AGENTS}?watch=true&labels=team%3Dother&resource_version={agents}");
    let mut of_team = admin.events(&of_team).await;
    // What changed may have been on the list before: that it is not is told, once.
    let left = of_team.next().await.unwrap();
    assert_eq!((left.event.as_str(), &left.data["name"]), ("deleted", &json!("greeter")));
    of_team.silent().await;

    let path = format!("/v1/spaces/lab/builds?watch=true&agent=greeter&resource_version={builds}");
    let built = admin.events(&path).await.next().await.unwrap();
    assert_eq!((built.event.as_str(), &built.data["object"]["state"]), ("added", &json!("succeeded")));
    let path = format!("/v1/spaces/lab/repos?watch=true&resource_version={repos}");
    let made = admin.events(&path).await.next().await.unwrap();
    assert_eq!((made.event.as_str(), &made.data["object"]["name"]), ("added", &json!("code")));
    let mut copies = admin.events("/v1/spaces/lab/published?watch=true").await;
    publish(&shelf).await.unwrap();
    let copy = copies.next().await.unwrap();
    assert_eq!((copy.event.as_str(), &copy.data["object"]["name"]), ("added", &json!("copy")));

    for list in ["agents", "builds", "repos", "published"] {
        let path = format!("/v1/spaces/lab/{list}");
        for (query, field) in [("watch=true&limit=5", "watch"), ("resource_version=1-1", "resource_version")]
        {
            let refused = admin.get(&format!("{path}?{query}")).await.refused(422, "invalid_field");
            assert_eq!(refused["field"], field, "{list}");
        }
        let stranger = shelf.lab.actor(&format!("s-{list}"), &[]).await;
        stranger.get(&format!("{path}?watch=true")).await.refused(404, "not_found");
    }
}

/// A published copy of one file of a session, without a computer to copy from. The bytes lie around for so long.
async fn publish_after(shelf: &Shelf, pause: Duration) -> Result<(), wharf_domain::Error> {
    let admin = shelf.lab.admin().await;
    let named = admin.call(Method::POST, SESSIONS, Some(json!({"name": "source"})), &[]).await;
    assert!(matches!(named.status.as_u16(), 201 | 409), "{}", named.text());
    let caller = shelf.caller().await;
    let store = &shelf.lab.store;
    let mut scope = store.scope(&caller, &"lab".parse().unwrap()).await?;
    let permit = scope.sessions().permit(&"source".parse().unwrap(), Verb::Publish).await?;
    let mut copier = store.copier(scope.published().leaks(&permit).await?);
    drop(scope);
    let mut file = copier.file("a.txt".to_owned(), "/a.txt".to_owned())?;
    file.write(b"hello").await?;
    file.finish().await?;
    shelf.lab.db.clock.advance(pause);
    shelf.sweep().await;
    let caller = shelf.caller().await;
    let mut scope = store.scope(&caller, &"lab".parse().unwrap()).await?;
    let permit = scope.sessions().permit(&"source".parse().unwrap(), Verb::Publish).await?;
    let new = NewPublished {
        name: Some("copy".parse().unwrap()),
        public: false,
        paths: vec!["/a.txt".to_owned()],
        labels: wharf_domain::Labels::default(),
        expires_at: None,
    };
    scope.published().create(&permit, new, copier.finish()).await?;
    scope.commit().await
}

async fn publish(shelf: &Shelf) -> Result<(), wharf_domain::Error> {
    publish_after(shelf, Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_were_swept_under_a_request_are_a_reason_to_try_again() {
    let shelf = Shelf::new().await;
    let swept = publish_after(&shelf, Duration::from_secs(3700)).await.unwrap_err();
    assert_eq!(swept.code, Code::Unavailable, "{swept}");
    assert!(swept.code.retryable() && swept.public.contains("again"), "{swept}");
    publish(&shelf).await.unwrap();

    shelf.queue(None).await.unwrap();
    let task = shelf.claim().await;
    let layer = shelf.blob(1, 10).await;
    shelf.lab.db.clock.advance(Duration::from_secs(3700));
    shelf.sweep().await;
    let work = shelf.lab.store.system(Actor::Operator).builds(shelf.owner);
    let swept = work.succeed(&task, &layer, &json!({})).await.unwrap_err();
    assert_eq!(swept.code, Code::Unavailable, "{swept}");
    assert_eq!(work.succeed(&task, &shelf.blob(1, 10).await, &json!({})).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_not_swept_while_they_are_written_or_soon_after_they_were_found_again() {
    let shelf = Shelf::new().await;
    let most_of_an_hour = Duration::from_secs(3000);
    let mut writer = shelf.lab.store.blob_writer(1 << 30).await.unwrap();
    let mut hash = Hasher::default();
    for seed in 0..3 {
        let chunk = vec![seed; MIB + 1];
        hash.update(&chunk);
        writer.write(&chunk).await.unwrap();
        shelf.lab.db.clock.advance(most_of_an_hour);
        assert_eq!(shelf.sweep().await.blobs, 0);
    }
    let digest = hash.digest();
    writer.finish(&digest).await.unwrap();
    shelf.blob(9, 10).await;
    shelf.lab.db.clock.advance(most_of_an_hour);
    // Found again by whoever brings the same bytes: theirs for another hour.
    shelf.blob(9, 10).await;
    shelf.lab.db.clock.advance(most_of_an_hour);
    assert_eq!(shelf.sweep().await.blobs, 1, "the large one is nobody's for an hour and a half");
    shelf.lab.db.clock.advance(most_of_an_hour);
    assert_eq!(shelf.sweep().await.blobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_builds_end_after_their_days_but_not_what_an_agent_follows() {
    let shelf = Shelf::new().await;
    let work = shelf.lab.store.system(Actor::Operator).builds(shelf.owner);
    let fail = async || {
        shelf.queue(None).await.unwrap();
        let mut task = shelf.claim().await;
        work.say(&mut task, "wharf", "so it is\n").await.unwrap();
        work.fail(&task, "so it is").await.unwrap();
        task.build.id
    };
    let first = fail().await;
    shelf.version(1, 10).await.unwrap();
    let last = fail().await;
    let day = Duration::from_secs(24 * 3600);
    shelf.lab.db.clock.advance(day * 30);
    assert_eq!((shelf.sweep().await.build_log, shelf.sweep().await.builds), (0, 0));
    shelf.lab.db.clock.advance(day * 2);
    assert_eq!(shelf.sweep().await.build_log, 2);
    shelf.lab.db.clock.advance(day * 60);
    assert_eq!(shelf.sweep().await.builds, 1);
    let admin = shelf.lab.admin().await;
    admin.get(&format!("/v1/spaces/lab/builds/{first}")).await.refused(404, "not_found");
    admin.get(&format!("/v1/spaces/lab/builds/{last}")).await.expect(200);
    let left = admin.get("/v1/spaces/lab/builds").await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 2, "{left}");
}
