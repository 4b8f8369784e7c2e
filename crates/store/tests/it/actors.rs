//! The people in the stories: `let lab = app.space("lab"); let alice = app.user("alice")…`.

use std::net::IpAddr;

use wharf_domain::quota::Quotas;
use wharf_domain::rbac::{Rule, Verb};
use wharf_domain::{Code, Error, Labels, Name, NameOrId, Plain, PrincipalId, RequestId, SpaceId};
use wharf_store::{
    Actor, Caller, Credential, NewBinding, NewPrincipal, NewSpace, PrincipalKind, RequestMeta, Scope, Space,
    Store, Tokens, User,
};
use wharf_testkit::TestDb;

pub struct App {
    pub db: TestDb,
    pub store: Store,
    pub admin: Caller,
    pub admin_password: Plain,
}

pub const PASSWORD: &str = "correct horse battery";

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn at<I>(text: &str) -> NameOrId<I> {
    NameOrId::Name(name(text))
}

pub fn meta() -> RequestMeta {
    from("192.0.2.1")
}

pub fn from(address: &str) -> RequestMeta {
    RequestMeta { request_id: RequestId::new(), address: Some(address.parse::<IpAddr>().unwrap()) }
}

pub fn rule(groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]) -> Rule {
    let own = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
    Rule { groups: own(groups), resources: own(resources), names: own(names), verbs: own(verbs) }
}

/// The error's code, for `assert_eq!`.
pub fn code<T>(result: Result<T, Error>) -> Code {
    match result {
        Ok(_) => panic!("it was allowed"),
        Err(e) => {
            assert_ne!(e.code, Code::Internal, "{e}");
            e.code
        }
    }
}

impl App {
    pub async fn new() -> Self {
        let db = TestDb::new().await;
        let store = db.store().await;
        let first = store.system(Actor::Setup).bootstrap().await.unwrap().unwrap();
        let tokens = store.login("admin", &first.password, meta()).await.unwrap();
        let admin = store.authenticate(Credential::Bearer(tokens.access_token), meta()).await.unwrap();
        Self { db, store, admin, admin_password: first.password }
    }

    pub async fn global(&self, caller: &Caller) -> Scope {
        self.store.global(caller).await.unwrap()
    }

    pub async fn space(&self, named: &str) -> Space {
        self.space_with(named, Quotas::default()).await
    }

    pub async fn space_with(&self, named: &str, quotas: Quotas) -> Space {
        let mut scope = self.global(&self.admin).await;
        let permit = scope.spaces().allow(Verb::Create, &name(named)).await.unwrap();
        let new = NewSpace {
            name: name(named),
            labels: Labels::default(),
            quotas,
            defaults: serde_json::json!({}),
        };
        let space = scope.spaces().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
        space
    }

    /// A user without any right.
    pub async fn stranger(&self, named: &str) -> User {
        let mut scope = self.global(&self.admin).await;
        let permit = scope.users().allow(Verb::Create, &name(named)).await.unwrap();
        let new = NewPrincipal {
            name: name(named),
            display_name: String::new(),
            labels: Labels::default(),
            password: Some(Plain::new(PASSWORD)),
        };
        let user = scope.users().create(&permit, new).await.unwrap();
        scope.commit().await.unwrap();
        user
    }

    /// A user with a role, in a space or everywhere, and logged in.
    pub async fn user(&self, named: &str, role: &str, space: Option<SpaceId>) -> Caller {
        self.stranger(named).await;
        self.bind(&self.admin, named, role, space).await.unwrap();
        self.log_in(named).await
    }

    pub async fn bind(
        &self,
        by: &Caller,
        user: &str,
        role: &str,
        space: Option<SpaceId>,
    ) -> Result<(), Error> {
        let mut scope = self.store.global(by).await?;
        let suffix = space.map_or_else(|| "all".to_owned(), |s| s.to_string()[24..].to_owned());
        let named = name(&format!("{user}-{role}-{suffix}"));
        let permit = scope.bindings().allow(Verb::Create, &named).await?;
        let new = NewBinding {
            name: named,
            role: at(role),
            principal_kind: PrincipalKind::User,
            principal: at::<PrincipalId>(user),
            space: space.map(NameOrId::Id),
            labels: Labels::default(),
        };
        scope.bindings().create(&permit, new).await?;
        scope.commit().await
    }

    pub async fn tokens(&self, user: &str) -> Tokens {
        self.store.login(user, &Plain::new(PASSWORD), meta()).await.unwrap()
    }

    pub async fn log_in(&self, user: &str) -> Caller {
        let tokens = self.tokens(user).await;
        self.as_bearer(&tokens.access_token).await.unwrap()
    }

    pub async fn as_bearer(&self, token: &Plain) -> Result<Caller, Error> {
        self.store.authenticate(Credential::Bearer(token.clone()), meta()).await
    }

    /// What is in the audit log about `verb`, newest first: `principal outcome name`.
    pub async fn audit(&self, verb: &str) -> Vec<String> {
        let mut scope = self.global(&self.admin).await;
        let filter = wharf_store::audit::AuditFilter { verb: Some(verb.to_owned()), ..Default::default() };
        let page = scope.audit_list(&filter).await.unwrap();
        page.items
            .iter()
            .map(|e| format!("{} {} {}", e.principal, e.outcome, e.name.as_deref().unwrap_or("-")))
            .collect()
    }
}
