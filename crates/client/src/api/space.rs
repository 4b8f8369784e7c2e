//! What lives in a space, and the audit log over all of them.

use reqwest::Method;
use wharf_wire::api;

use super::session::SessionApi;
use super::{Crud, Never};
use crate::client::Client;
use crate::error::Result;
use crate::page::List;
use crate::stream::EventStream;

/// `/spaces/{space}/…`
#[derive(Clone)]
pub struct SpaceApi {
    client: Client,
    name: String,
}

impl SpaceApi {
    pub(crate) fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the space uses; the report of models as the query parameters say (`from`, `to`, `by`, `session`).
    pub async fn usage(&self, report: &[(&'static str, String)]) -> Result<api::SpaceUsage> {
        let call = self.client.call(Method::GET, ["spaces", &self.name, "usage"]);
        report.iter().fold(call, |call, (name, value)| call.query(name, value)).send_json().await
    }

    pub fn providers(&self) -> Crud<api::Provider, api::CreateProvider, api::PatchProvider> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "providers"])
    }

    pub fn secrets(&self) -> Crud<api::Secret, api::CreateSecret, api::PatchSecret> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "secrets"])
    }

    pub fn connections(&self) -> Crud<api::Connection, api::CreateConnection, api::PatchConnection> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "connections"])
    }

    /// Published copies; they are made from their sessions.
    pub fn published(&self) -> Crud<api::Published, Never, Never> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "published"])
    }

    /// A signed link to a published copy.
    pub async fn published_link(
        &self,
        name: &str,
        body: &api::CreatePublishedLink,
    ) -> Result<api::PublishedLink> {
        let at = ["spaces", &self.name, "published", name, "links"];
        self.client.call(Method::POST, at).json(body).send_json().await
    }

    /// Revokes all links to a published copy.
    pub async fn revoke_published_links(&self, name: &str) -> Result<()> {
        let at = ["spaces", &self.name, "published", name, "links"];
        self.client.call(Method::DELETE, at).send_unit().await
    }

    pub fn repos(&self) -> Crud<api::Repo, api::CreateRepo, api::PatchRepo> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "repos"])
    }

    /// Branches of a git repository, by name.
    pub fn repo_branches(&self, repo: &str) -> List {
        let (client, space, repo) = (self.client.clone(), self.name.clone(), repo.to_owned());
        List::new(move || client.call(Method::GET, ["spaces", &space, "repos", &repo, "branches"]))
    }

    pub fn policies(&self) -> Crud<api::Policy, api::CreatePolicy, api::PatchPolicy> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "policies"])
    }

    /// What waits, or waited, for somebody's yes.
    pub fn approvals(&self, filters: Vec<(&'static str, String)>) -> List {
        let (client, space) = (self.client.clone(), self.name.clone());
        List::new(move || {
            let call = client.call(Method::GET, ["spaces", &space, "approvals"]);
            filters.iter().fold(call, |call, (name, value)| call.query(name, value))
        })
    }

    /// A secret's value; needs the verb `read-values` and leaves an audit entry.
    pub async fn reveal_secret(&self, name: &str) -> Result<api::SecretValue> {
        self.client.call(Method::POST, ["spaces", &self.name, "secrets", name, "reveal"]).send_json().await
    }

    pub fn agents(&self) -> Crud<api::AgentPackage, api::CreateAgent, api::PatchAgent> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "agents"])
    }

    /// An agent's versions, newest first.
    pub fn agent_versions(&self, agent: &str) -> List {
        let (client, space, agent) = (self.client.clone(), self.name.clone(), agent.to_owned());
        List::new(move || client.call(Method::GET, ["spaces", &space, "agents", &agent, "versions"]))
    }

    /// Deletes a version that is neither the active one nor any session's.
    pub async fn delete_agent_version(&self, agent: &str, version: &str) -> Result<()> {
        let path = ["spaces", &self.name, "agents", agent, "versions", version];
        self.client.call(Method::DELETE, path).send_unit().await
    }

    /// Makes a version the one that sessions get from now on.
    pub async fn activate_agent(&self, agent: &str, version: i32) -> Result<api::AgentPackage> {
        let body = api::ActivateVersion { version };
        let path = ["spaces", &self.name, "agents", agent, "activate"];
        self.client.call(Method::POST, path).json(&body).send_json().await
    }

    /// Begins a build from a repository.
    pub async fn build_agent(&self, agent: &str, body: &api::StartBuild) -> Result<api::Build> {
        let path = ["spaces", &self.name, "agents", agent, "build"];
        self.client.call(Method::POST, path).json(body).send_json().await
    }

    /// Begins a build from the tar of a package's directory, sent while it is read.
    pub async fn build_agent_from(
        &self,
        agent: &str,
        image: Option<&str>,
        resources: api::ResourcesPatch,
        archive: reqwest::Body,
    ) -> Result<api::Build> {
        self.client
            .call(Method::POST, ["spaces", &self.name, "agents", agent, "build"])
            .query_opt("image", image)
            .query_opt("cpu_millis", resources.cpu_millis)
            .query_opt("memory_mib", resources.memory_mib)
            .query_opt("disk_mib", resources.disk_mib)
            .query_opt("pids", resources.pids)
            .stream("application/x-tar", archive, None)
            .send_json()
            .await
    }

    pub fn builds(&self) -> Crud<api::Build, Never, Never> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "builds"])
    }

    /// Ends a build that is not at its end.
    pub async fn cancel_build(&self, build: wharf_domain::BuildId) -> Result<api::Build> {
        let build = build.to_string();
        let path = ["spaces", &self.name, "builds", &build, "cancel"];
        self.client.call(Method::POST, path).send_json().await
    }

    /// A build's log from its beginning, followed until it ends or is dropped.
    pub async fn build_log(&self, build: wharf_domain::BuildId) -> Result<EventStream> {
        let (client, space, build) = (self.client.clone(), self.name.clone(), build.to_string());
        let call = move || client.call(Method::GET, ["spaces", &space, "builds", &build, "log"]);
        EventStream::open(call, Some("0".to_owned())).await
    }

    pub fn images(&self) -> Crud<api::Image, Never, Never> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "images"])
    }

    /// Makes an image from the archive of a root filesystem, sent while it is read.
    pub async fn import_image(
        &self,
        name: &wharf_domain::Name,
        archive: reqwest::Body,
        length: Option<u64>,
    ) -> Result<api::Image> {
        self.client
            .call(Method::POST, ["spaces", &self.name, "images"])
            .query("name", name)
            .stream("application/x-tar", archive, length)
            .send_json()
            .await
    }

    /// Deletes a version of an image: the newest when no digest is named, of one runtime when that is named.
    pub async fn delete_image(&self, name: &str, digest: Option<&str>, runtime: Option<&str>) -> Result<()> {
        let call = self.client.call(Method::DELETE, ["spaces", &self.name, "images", name]);
        call.query_opt("digest", digest).query_opt("runtime", runtime).send_unit().await
    }

    pub fn sessions(&self) -> Crud<api::Session, api::CreateSession, api::PatchSession> {
        Crud::new(self.client.clone(), ["spaces", &self.name, "sessions"])
    }

    pub fn session(&self, name: &str) -> SessionApi {
        SessionApi::new(self.client.clone(), &self.name, name)
    }

    /// Makes a session; with `wait`, the answer comes when it is idle or in error.
    pub async fn create_session(&self, body: &api::CreateSession, wait: bool) -> Result<api::Session> {
        let call = self.client.call(Method::POST, ["spaces", &self.name, "sessions"]).json(body);
        if wait { super::session::waiting(call, "ready").send_json().await } else { call.send_json().await }
    }

    /// What happens in the space, from `after` on (from now, without).
    pub async fn events(&self, after: Option<String>) -> Result<EventStream> {
        let (client, space) = (self.client.clone(), self.name.clone());
        EventStream::open(move || client.call(Method::GET, ["spaces", &space, "events"]), after).await
    }
}

/// `/audit`
pub struct AuditApi {
    client: Client,
}

impl AuditApi {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Entries that match the filters.
    pub fn list(&self, filters: Vec<(&'static str, String)>) -> List {
        let client = self.client.clone();
        List::new(move || {
            filters
                .iter()
                .fold(client.call(Method::GET, ["audit"]), |call, (name, value)| call.query(name, value))
        })
    }

    /// Walks the chain. Takes as long as the log is long.
    pub async fn verify(&self) -> Result<api::AuditVerification> {
        self.client.call(Method::POST, ["audit", "verify"]).limit(None).send_json().await
    }
}
