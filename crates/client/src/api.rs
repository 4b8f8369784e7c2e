//! The API's nouns as handles: each says where it lives and which shapes it speaks.

mod auth;
mod files;
mod session;
mod space;

use std::marker::PhantomData;

use reqwest::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wharf_wire::api;

pub use auth::{AuthApi, Pair};
pub use files::{FileTarget, FilesApi};
pub use session::{ScreenshotOptions, SessionApi};
pub use space::{AuditApi, SpaceApi};

use crate::call::Call;
use crate::client::Client;
use crate::error::Result;
use crate::page::List;
use crate::stream::EventStream;

/// For nouns that cannot be made or changed this way: no value of it exists.
#[derive(Serialize)]
pub enum Never {}

/// Made and taken, never held.
type Shapes<T, C, P> = fn() -> (T, C, P);

/// A noun with the usual operations: things of shape `T`, made from `C`, changed by `P`.
pub struct Crud<T, C, P> {
    client: Client,
    at: Vec<String>,
    shapes: PhantomData<Shapes<T, C, P>>,
}

impl<T: DeserializeOwned + Send + 'static, C: Serialize, P: Serialize> Crud<T, C, P> {
    pub(crate) fn new<S: Into<String>>(client: Client, at: impl IntoIterator<Item = S>) -> Self {
        Self { client, at: at.into_iter().map(Into::into).collect(), shapes: PhantomData }
    }

    fn call(&self, method: Method) -> Call {
        self.client.call(method, self.at.iter().map(String::as_str))
    }

    fn call_one(&self, method: Method, name: &str) -> Call {
        self.client.call(method, self.at.iter().map(String::as_str).chain([name]))
    }

    /// Everything the caller may see, in the server's stable order.
    pub fn list(&self) -> List {
        self.list_where(Vec::new())
    }

    /// The same, filtered by query parameters.
    pub fn list_where(&self, filters: Vec<(&'static str, String)>) -> List {
        let (client, at) = (self.client.clone(), self.at.clone());
        List::new(move || {
            let call = client.call(Method::GET, at.iter().map(String::as_str));
            filters.iter().fold(call, |call, (name, value)| call.query(name, value))
        })
    }

    /// Changes of the list as they happen, from `resource_version` on.
    pub async fn watch(
        &self,
        filters: Vec<(&'static str, String)>,
        resource_version: &str,
    ) -> Result<EventStream> {
        let (client, at) = (self.client.clone(), self.at.clone());
        let from = resource_version.to_owned();
        EventStream::open(
            move || {
                let call = client
                    .call(Method::GET, at.iter().map(String::as_str))
                    .query("watch", true)
                    .query("resource_version", &from);
                filters.iter().fold(call, |call, (name, value)| call.query(name, value))
            },
            None,
        )
        .await
    }

    pub async fn get(&self, name: &str) -> Result<T> {
        self.call_one(Method::GET, name).send_json().await
    }

    pub async fn create(&self, body: &C) -> Result<T> {
        self.call(Method::POST).json(body).send_json().await
    }

    /// Changes one. With `if_match`, only if it is still at that version.
    pub async fn patch(&self, name: &str, body: &P, if_match: Option<i64>) -> Result<T> {
        let version = if_match.map(|v| v.to_string());
        self.call_one(Method::PATCH, name).if_match(version.as_deref()).json(body).send_json().await
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        self.call_one(Method::DELETE, name).send_unit().await
    }
}

impl Client {
    /// Login, tokens and who one is.
    pub fn auth(&self) -> AuthApi {
        AuthApi::new(self.clone())
    }

    pub fn users(&self) -> Crud<api::User, api::CreateUser, api::PatchUser> {
        Crud::new(self.clone(), ["users"])
    }

    pub fn service_accounts(
        &self,
    ) -> Crud<api::ServiceAccount, api::CreateServiceAccount, api::PatchServiceAccount> {
        Crud::new(self.clone(), ["service-accounts"])
    }

    /// API tokens of a service account.
    pub fn service_account_tokens(&self, account: &str) -> Crud<api::ApiToken, api::CreateToken, Never> {
        Crud::new(self.clone(), ["service-accounts", account, "tokens"])
    }

    /// Makes an API token; its secret part is in the answer and nowhere else.
    pub async fn create_token(&self, account: &str, body: &api::CreateToken) -> Result<api::NewToken> {
        self.call(Method::POST, ["service-accounts", account, "tokens"]).json(body).send_json().await
    }

    pub fn roles(&self) -> Crud<api::Role, api::CreateRole, api::PatchRole> {
        Crud::new(self.clone(), ["roles"])
    }

    pub fn role_bindings(&self) -> Crud<api::RoleBinding, api::CreateRoleBinding, Never> {
        Crud::new(self.clone(), ["role-bindings"])
    }

    pub fn spaces(&self) -> Crud<api::Space, api::CreateSpace, api::PatchSpace> {
        Crud::new(self.clone(), ["spaces"])
    }

    /// What lives in one space.
    pub fn space(&self, name: &str) -> SpaceApi {
        SpaceApi::new(self.clone(), name)
    }

    pub fn audit(&self) -> AuditApi {
        AuditApi::new(self.clone())
    }

    /// May the caller do this, and which binding says so?
    pub async fn access_review(&self, body: &api::AccessReviewRequest) -> Result<api::AccessReview> {
        self.call(Method::POST, ["access-review"]).json(body).send_json().await
    }

    /// Where sessions run, and what is kept there.
    pub async fn runtimes(&self) -> Result<api::Runtimes> {
        self.call(Method::GET, ["runtimes"]).send_json().await
    }

    /// What the server is. Needs no credential.
    pub async fn version(&self) -> Result<api::Version> {
        self.call_root(["version"]).send_json().await
    }
}
