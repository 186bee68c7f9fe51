//! Every operation of the document, called by those who may not: by nobody, with each wrong kind of token, and by users and
//! apps of others. Never a success, a failure of the service, data of others, or a change.

use dca_core::{
    bans::{self, NewBan, Target},
    crypto::api_key::ApiKeyKind,
    users::Role,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    api_document::{document, operations},
    license_commands::{Client, manager, new_user},
};
use crate::support::{
    accounts::{auth_state, refresh_token, reset_token, signed_in_as},
    fixtures::{Answer, Request, TestTenant, log_head},
    harness::{TestApp, it_unstarted},
};

/// The operations that everyone may call, and why.
const PUBLIC: &[(&str, &str)] = &[
    ("GET /.well-known/jwks.json", "public keys"),
    ("GET /.well-known/dca-keys", "public keys"),
    ("GET /health", "a probe"),
    ("GET /live", "a probe"),
    ("GET /ready", "a probe"),
    ("GET /metrics", "needs a token of its own only where one is set"),
    ("POST /auth/signup", "begins an account"),
    ("POST /auth/login", "begins a session"),
    ("POST /auth/2fa/verify", "takes the token of a pending sign-in"),
    ("POST /auth/verify-email", "takes a one-time token"),
    ("POST /auth/resend-verification", "answers everyone alike"),
    ("POST /auth/refresh", "takes a refresh token"),
    ("POST /auth/logout", "takes a refresh token, and succeeds without one"),
    ("POST /auth/reset-password-request", "answers everyone alike"),
    ("POST /auth/reset-password", "takes a one-time token"),
    ("GET /auth/{provider}", "begins a sign-in"),
    ("POST /auth/{provider}", "begins a sign-in"),
    ("GET /auth/{provider}/callback", "takes the state of a sign-in"),
    ("POST /auth/{provider}/callback", "takes the state of a sign-in"),
];

/// What other users or apps get where it is neither 401, 403 nor 404, and why. Data of others is never in it.
const OTHERS: &[(&str, u16, &str)] = &[
    ("GET /licenses", 200, "an empty list"),
    ("GET /products", 200, "a list of their own"),
    ("GET /bans", 200, "an empty list"),
    ("GET /api-keys", 200, "a list of their own"),
    ("POST /licenses/validate", 200, "the verdict NOT_FOUND"),
    ("POST /licenses/heartbeat", 200, "the verdict NOT_FOUND"),
    ("POST /licenses/usage", 200, "the verdict NOT_FOUND"),
    ("POST /licenses/redeem", 409, "who has the key learns that it is taken"),
    ("POST /licenses/offline-activate", 422, "only an app can make the request"),
];

const NONCE: &str = "q83vASNFZ4mrze8BI0VniQ";
const FINGERPRINT: &str = "fingerprint-of-device:0001";

/// What belongs to one tenant and one user, and what no one else may read.
struct Owned {
    ids: Vec<(&'static str, Uuid)>,
    key: String,
    product: Uuid,
    tenant: Uuid,
    owner: Uuid,
    secrets: Vec<String>,
}

impl Owned {
    /// The path of an operation with the ID of what it is about.
    fn path(&self, path: &str) -> String {
        let known = self.ids.iter().find(|(prefix, _)| path.contains(prefix));
        let id = known.map_or(Uuid::nil(), |(_, id)| *id);
        assert!(!path.contains("{id}") || known.is_some(), "which object is {path} about?");
        let filter = if path == "/licenses" {
            format!("?userId={}&productId={}", self.owner, self.product)
        } else {
            String::new()
        };
        path.replace("{id}", &id.to_string()).replace("{provider}", "google") + &filter
    }

    /// A body that is valid for the operation.
    fn body(&self, operation: &str) -> Value {
        let device = json!({ "fingerprint": FINGERPRINT });
        let own = |members: Value| {
            let mut body = json!({ "licenseKey": self.key, "nonce": NONCE });
            body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
            body
        };
        match operation {
            "POST /licenses/validate" => own(json!({})),
            "POST /licenses/heartbeat" => own(json!({ "seq": 1 })),
            "POST /licenses/usage" => own(json!({ "quota": "exports" })),
            "POST /licenses/activate" | "POST /licenses/deactivate" => own(json!({ "device": device })),
            "POST /licenses/redeem" => json!({ "licenseKey": self.key }),
            "POST /licenses/offline-activate" => json!({ "licenseKey": self.key, "request": "DCAREQ1.e30.AAAA" }),
            "POST /licenses/{id}/checkout" => device,
            "POST /licenses/{id}/assign" | "POST /licenses/{id}/transfer" => json!({ "userId": self.owner }),
            "PATCH /licenses/{id}" | "PATCH /products/{id}" => json!({ "name": "Stolen" }),
            "POST /licenses/{id}/renew" => json!({ "seconds": 60 }),
            "POST /api-keys/{id}/rotate" => json!({ "overlapSeconds": 0 }),
            "POST /products" => json!({ "name": "Mine", "tenantId": self.tenant }),
            "POST /products/{id}/policies" => json!({ "policy": { "maxDevices": 9 } }),
            "POST /bans" => json!({ "userId": self.owner, "productId": self.product, "reason": "test" }),
            "POST /api-keys" => json!({ "name": "Mine", "kind": "secret", "productIds": [self.product] }),
            "POST /admin/licenses/generate" => json!({ "productId": self.product, "count": 1 }),
            "POST /admin/licenses/revoke" => {
                json!({ "filter": { "productId": self.product }, "reason": "test" })
            }
            "POST /admin/roles/assign" | "POST /admin/roles/revoke" => json!({ "userId": self.owner, "role": "ADMIN" }),
            "PATCH /admin/users/{id}" => json!({ "status": "BANNED" }),
            _ => json!({ "reason": "test" }),
        }
    }

    /// Sends an operation with these headers.
    async fn send(&self, t: &TestApp, operation: &str, headers: &[(&str, String)]) -> Answer {
        let (method, path) = operation.split_once(' ').unwrap();
        let mut request = Request::new(&format!("{method} {}", self.path(path)));
        for (name, value) in headers {
            request = request.with(name, value);
        }
        if method != "GET" {
            request = request.with("Content-Type", "application/json").body(self.body(operation).to_string());
        }
        let answer = request.ask(t.addr()).await.unwrap();
        let told = self.secrets.iter().find(|secret| answer.body.contains(*secret));
        assert_eq!(told, None, "{operation} tells what belongs to others: {answer:?}");
        answer
    }
}

/// An operation of the document, and whether it takes an API key.
struct Operation {
    line: String,
    takes_api_key: bool,
}

fn all_operations() -> Vec<Operation> {
    let document = document().0;
    let (mut protected, mut public) = (Vec::new(), Vec::new());
    for (method, path, operation) in operations(&document) {
        let line = format!("{} {path}", method.to_uppercase());
        let security: Vec<&Value> = operation["security"].as_array().into_iter().flatten().collect();
        if security.is_empty() || security.contains(&&json!({})) {
            public.push(line);
        } else {
            let takes_api_key = security.iter().any(|scheme| scheme.get("api_key").is_some());
            protected.push(Operation { line, takes_api_key });
        }
    }
    let (mut expected, mut found): (Vec<_>, Vec<_>) =
        (PUBLIC.iter().map(|(line, _)| *line).collect(), public.iter().map(String::as_str).collect());
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected, "operations without authentication");
    protected
}

/// Acts on the caller's own account, and therefore on nothing of others.
fn is_about_the_caller(line: &str) -> bool {
    let path = line.split(' ').nth(1).unwrap();
    (path.starts_with("/auth/") || path.starts_with("/me")) && !path.contains("{id}")
}

/// Creates what nobody else may read or change; returns it with an API key and the access token of a manager.
async fn owned(t: &TestApp, tenant: &TestTenant) -> (Owned, String, String) {
    let gold = tenant.product("Secret Studio", "STUDIO").await;
    let (api_key, api_key_text) = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await;
    let (license, key) = tenant.generated(&gold).await;
    let (owner, owner_id) = signed_in_as(t, "owner@x.example", Role::User).await;
    assert_eq!(owner.post("/licenses/redeem", json!({ "licenseKey": key })).await.status, 200);
    let client = Client::new(t, tenant, &[&gold]).await;
    let device = json!({ "fingerprint": FINGERPRINT, "name": "Desk of the owner" });
    assert_eq!(client.post("/licenses/activate", json!({ "licenseKey": key, "device": device })).await.status, 201);
    tenant.set_terms(&gold, json!({ "lease": { "ttlSeconds": 180, "maxConcurrent": 1, "onFull": "reject" } })).await;
    let beat = json!({ "licenseKey": key, "seq": 1, "nonce": NONCE });
    let beat = client.post("/licenses/heartbeat", beat).await;
    let lease = beat.body["lease"]["id"].as_str().unwrap_or_else(|| panic!("{beat:?}")).parse().unwrap();
    let target = Target::User(new_user(t).await);
    let (product, reason) = (Some(gold.id), "Reason of the ban".to_owned());
    let ban = NewBan { tenant: None, product, target, reason, expires_at: None };
    let ban = bans::create(&tenant.core, &tenant.caller, ban).await.unwrap();
    let sessions = owner.get("/auth/sessions").await;
    let session = sessions.body[0]["id"].as_str().unwrap_or_else(|| panic!("{sessions:?}")).parse().unwrap();
    let manager = manager(t, tenant, 71, "manager@x.example").await;
    let ids = vec![
        ("/sessions/{id}", session),
        ("/leases/{id}", lease),
        ("/outbox/{id}", Uuid::nil()),
        ("/users/{id}", owner_id.0),
        ("/licenses/{id}", license.id.0),
        ("/products/{id}", gold.id.0),
        ("/policies/{id}", gold.policy_id.0),
        ("/api-keys/{id}", api_key.id.0),
        ("/bans/{id}", ban.id.0),
    ];
    let secrets = ["Secret Studio", "owner@x.example", "Desk of the owner", "Reason of the ban"].map(str::to_owned);
    let secrets = [secrets.to_vec(), vec![license.key_hint, api_key.hint]].concat();
    let (product, tenant) = (gold.id.0, tenant.caller.scope().tenant().0);
    let owned = Owned { ids, key, product, tenant, owner: owner_id.0, secrets };
    (owned, api_key_text, manager.access_token().unwrap())
}

fn bearer(token: &str) -> Vec<(&'static str, String)> {
    vec![("Authorization", format!("Bearer {token}"))]
}

fn api_key(key: &str) -> Vec<(&'static str, String)> {
    vec![("X-API-Key", key.to_owned())]
}

#[test]
fn no_operation_serves_those_who_may_not_call_it() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        let limits = ["VALIDATE", "ACTIVATE", "MANAGE"].map(|name| format!("DCA_{name}_PER_MINUTE"));
        t.start_with_limits(&limits.each_ref().map(|name| (name.as_str(), "60000"))).await;
        let (tenant, other) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Others").await);
        let (owned, own_key, own_session) = owned(&t, &tenant).await;
        let silver = other.product("Silver", "SILVER").await;
        let foreign_key = other.api_key(ApiKeyKind::Secret, &[&silver]).await.1;
        let sibling = tenant.product("Sibling", "SIBLING").await;
        let sibling_key = tenant.api_key(ApiKeyKind::Secret, &[&sibling]).await.1;
        let foreign_manager = manager(&t, &other, 72, "foreign@x.example").await.access_token().unwrap();
        let (stranger, _) = signed_in_as(&t, "stranger@x.example", Role::User).await;
        let one_time = reset_token(&t, &mail, "stranger@x.example").await;
        let (head, accounts) = (log_head(t.core()).await, auth_state(t.core()).await);

        let nobody = [
            ("nobody", Vec::new()),
            ("a refresh token", bearer(&refresh_token(&stranger))),
            ("a one-time token", bearer(&one_time)),
            ("a license key", bearer(&owned.key)),
            ("an access token as API key", api_key(&own_session)),
            ("garbage", bearer("e30.e30.e30")),
        ];
        let others = [
            ("an app of another tenant", api_key(&foreign_key)),
            ("an app of another product", api_key(&sibling_key)),
            ("a manager of another tenant", bearer(&foreign_manager)),
            ("another user", bearer(&stranger.access_token().unwrap())),
        ];
        let mut wrong = Vec::new();
        for Operation { line, takes_api_key } in all_operations() {
            for (who, headers) in &nobody {
                let answer = owned.send(&t, &line, headers).await;
                wrong.extend((answer.status != 401).then(|| format!("{line} by {who}: {answer:?}")));
            }
            if !takes_api_key {
                for headers in [api_key(&own_key), bearer(&own_key)] {
                    let answer = owned.send(&t, &line, &headers).await;
                    let is_declined = [401, 403].contains(&answer.status);
                    wrong.extend((!is_declined).then(|| format!("{line} needs a session: {answer:?}")));
                }
            }
            if ["POST /licenses/validate", "POST /licenses/heartbeat", "POST /licenses/usage"].contains(&&*line) {
                let answer = owned.send(&t, &line, &bearer(&own_session)).await;
                wrong.extend((answer.status != 401).then(|| format!("{line} needs an API key: {answer:?}")));
            }
            for (who, headers) in others.iter().filter(|_| !is_about_the_caller(&line)) {
                let answer = owned.send(&t, &line, headers).await;
                let exception =
                    OTHERS.iter().find(|(operation, status, _)| (*operation, *status) == (&line, answer.status));
                let is_declined = [401, 403, 404].contains(&answer.status);
                let verdict = &answer.json()["code"];
                let is_about_nothing = answer.status != 200 || verdict.is_null() || verdict == "NOT_FOUND";
                let is_expected = (is_declined || exception.is_some()) && is_about_nothing;
                wrong.extend((!is_expected).then(|| format!("{line} by {who}: {answer:?}")));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert_eq!((log_head(t.core()).await, auth_state(t.core()).await), (head, accounts), "something was changed");
        mail.finish();
        t
    });
}
