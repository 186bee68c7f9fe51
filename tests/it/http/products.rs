//! Products and their policies.

use std::collections::BTreeSet;

use dca_core::{GuildId, crypto::api_key::ApiKeyKind, guilds, ids::TenantId, products::Product, users::Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::{events_of_kind, sign_in_as, signed_in_admin, signed_in_as, table_text},
    browser::{Browser, Response},
    fixtures::{TestTenant, log_head},
    harness::{TestApp, it_unstarted},
};

/// An app that calls the API with its key.
struct App {
    browser: Browser,
    key: String,
}

impl App {
    async fn new(t: &TestApp, tenant: &TestTenant, kind: ApiKeyKind, products: &[&Product]) -> Self {
        Self { browser: Browser::new(t), key: tenant.api_key(kind, products).await.1 }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Response {
        self.browser.ask(method, path, body, &[("X-API-Key", &self.key)]).await
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, Value::Null).await
    }

    /// Changes a policy, with `If-Match` unless it is empty.
    async fn change(&self, product: &Product, policy: Value, if_match: &str) -> Response {
        let headers = [("X-API-Key", self.key.as_str()), ("If-Match", if_match)];
        let headers = if if_match.is_empty() { &headers[..1] } else { &headers };
        let path = format!("/products/{}/policies", product.id);
        self.browser.ask(Method::POST, &path, json!({ "policy": policy }), headers).await
    }
}

/// A started service, a tenant with the product Gold, and an app that manages it.
async fn prepare(t: &mut TestApp) -> (TestTenant, Product, App) {
    t.set("DCA_MANAGE_PER_MINUTE", "60000");
    t.start_with_limits(&[]).await;
    let tenant = TestTenant::new(t.core(), "Makers").await;
    let gold = tenant.product("Gold", "GOLD").await;
    let app = App::new(t, &tenant, ApiKeyKind::Secret, &[&gold]).await;
    (tenant, gold, app)
}

/// What the database knows about products.
async fn stored(t: &TestApp) -> (String, String, i64) {
    (table_text(t.core(), "products").await, table_text(t.core(), "policies").await, log_head(t.core()).await)
}

#[test]
fn a_product_is_created_renamed_and_changed() {
    it_unstarted(|mut t| async {
        let (tenant, ..) = prepare(&mut t).await;
        let root = signed_in_admin(&t).await;
        let form = json!({
            "name": " Studio ", "tenantId": tenant.caller.scope().tenant(), "type": "LIFETIME",
            "policy": { "maxDevices": 5, "features": ["pro"] },
        });
        let created = root.post("/products", form.clone()).await;
        assert_eq!((created.status, created.header("etag")), (201, "\"1\""), "{created:?}");
        let (product, policy) = (&created.body, &created.body["policy"]);
        assert_eq!((&product["name"], &product["prefix"]), (&json!("Studio"), &json!("STUDIO")));
        assert_eq!((&policy["version"], &policy["id"]), (&json!(1), &product["policyId"]));
        for (member, value) in [
            ("type", json!("PERPETUAL")),
            ("maxDevices", json!(5)),
            ("deviceRequired", json!(true)),
            ("transfer", json!("owner")),
            ("features", json!(["pro"])),
        ] {
            assert_eq!(policy["terms"][member], value, "{member}");
        }
        let path = format!("/products/{}", product["id"].as_str().unwrap());
        assert_eq!(root.get(&path).await.body, created.body);

        let again = root.post("/products", form).await;
        assert_eq!((again.status, again.code()), (409, "CONFLICT"), "{again:?}");
        let rename = async |name: &str, tag: &str| {
            root.ask(Method::PATCH, &path, json!({ "name": name }), &[("If-Match", tag)]).await
        };
        let renamed = rename("Studio Pro", "\"1\"").await;
        assert_eq!((renamed.status, renamed.header("etag")), (200, "\"2\""), "{renamed:?}");
        assert_eq!(renamed.body["name"], "Studio Pro");
        assert_eq!(rename("Other", "\"1\"").await.code(), "PRECONDITION_FAILED");
        assert_eq!(rename("gold", "\"2\"").await.code(), "CONFLICT", "another product has the name");
        assert_eq!(rename("Studio Pro", "\"2\"").await.header("etag"), "\"2\"", "nothing to change");
        assert_eq!(rename("STUDIO PRO", "*").await.header("etag"), "\"3\"");

        let policies = format!("{path}/policies");
        let changed = root.post(&policies, json!({ "policy": { "maxDevices": null } })).await;
        assert_eq!((changed.status, changed.header("etag")), (201, "\"4\""), "{changed:?}");
        assert_eq!((&changed.body["version"], &changed.body["terms"]["maxDevices"]), (&json!(2), &Value::Null));
        assert_eq!(changed.body["terms"]["features"], json!(["pro"]), "the rest stays");
        let unchanged = root.post(&policies, json!({ "policy": changed.body["terms"] })).await;
        assert_eq!((unchanged.status, &unchanged.body), (200, &changed.body));
        let first = format!("/policies/{}", policy["id"].as_str().unwrap());
        assert_eq!(&root.get(&first).await.body, policy);
        assert_eq!(root.get(&path).await.body["policy"], changed.body);
        let id = &product["id"];
        let after = async |kind: &str| {
            let all = events_of_kind(t.core(), kind).await.into_iter();
            let all = all.map(|event| match &event["after"] {
                Value::String(text) => serde_json::from_str(text).unwrap(),
                after => after.clone(),
            });
            all.filter(|after: &Value| after["productId"] == *id).collect::<Vec<_>>()
        };
        assert_eq!(after("product.created").await, [json!({ "productId": id, "name": "Studio" })]);
        let names =
            [json!({ "productId": id, "name": "Studio Pro" }), json!({ "productId": id, "name": "STUDIO PRO" })];
        assert_eq!(after("product.renamed").await, names);
        assert_eq!(after("policy.changed").await, [json!({ "productId": id, "version": 2 })]);
        t
    });
}

#[test]
fn invalid_products_and_policies_are_refused_with_the_field_and_nothing_is_written() {
    it_unstarted(|mut t| async {
        let (tenant, gold, app) = prepare(&mut t).await;
        let root = signed_in_admin(&t).await;
        let before = stored(&t).await;
        let tenant = tenant.caller.scope().tenant();
        for (field, change) in [
            ("name", json!({ "name": "" })),
            ("name", json!({ "name": "a".repeat(81) })),
            ("name", json!({ "name": "\u{202e}a" })),
            ("name", json!({ "name": 5 })),
            ("prefix", json!({ "prefix": "A" })),
            ("prefix", json!({ "prefix": "TOOLONGER" })),
            ("prefix", json!({ "prefix": "Ä1" })),
            ("policy.type", json!({ "type": "GOLD" })),
            ("type", json!({ "type": "TRIAL", "policy": { "type": "TRIAL" } })),
            ("tenantId", json!({ "tenantId": null })),
            ("colour", json!({ "colour": 1 })),
            ("policy", json!({ "policy": [] })),
            ("policy.graceSeconds", json!({ "policy": { "graceSeconds": 5 } })),
        ] {
            let mut form = json!({ "name": "New", "tenantId": tenant });
            form.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let refused = root.post("/products", form).await;
            let found = (refused.status, refused.code(), refused.body["field"].as_str().unwrap_or_default());
            assert_eq!(found, (422, "VALIDATION_ERROR", field), "{change}: {refused:?}");
        }
        let quota = |limit: i64| json!([{ "name": "a", "limit": limit, "period": "day" }]);
        for (field, policy) in [
            ("colour", json!({ "colour": 1 })),
            ("type", json!({ "type": "gold" })),
            ("durationSeconds", json!({ "durationSeconds": 0 })),
            ("durationSeconds", json!({ "durationSeconds": 1_000_000_000_000_000_000_i64 })),
            ("expiryBasis", json!({ "expiryBasis": "birthday" })),
            ("expiresAt", json!({ "expiryBasis": "fixed_date", "expiresAt": "0000-01-01T00:00:00Z" })),
            ("expiresAt", json!({ "expiryBasis": "fixed_date", "expiresAt": "+12000-01-01T00:00:00Z" })),
            ("renewalBasis", json!({ "renewalBasis": 1 })),
            ("expiryStrategy", json!({ "expiryStrategy": "grace_then_restrict" })),
            ("graceSeconds", json!({ "graceSeconds": -1 })),
            ("maxDevices", json!({ "maxDevices": 0 })),
            ("deviceRequired", json!({ "deviceRequired": 1 })),
            ("autoActivate", json!({ "autoActivate": "true" })),
            ("deviceMatch", json!({ "deviceMatch": "three" })),
            ("overage", json!({ "overage": "3x" })),
            ("lease.onFull", json!({ "lease": { "ttlSeconds": 60, "maxConcurrent": 1 } })),
            ("lease.ttlSeconds", json!({ "lease": { "ttlSeconds": 1, "maxConcurrent": 1, "onFull": "reject" } })),
            ("checkInSeconds", json!({ "checkInSeconds": 59 })),
            ("offlineMaxSeconds", json!({ "offlineMaxSeconds": 366 * 86_400 + 1 })),
            ("resetCooldownSeconds", json!({ "resetCooldownSeconds": -1 })),
            ("resetsPer30Days", json!({ "resetsPer30Days": -1 })),
            ("firstResetFree", json!({ "firstResetFree": 1 })),
            ("transfer", json!({ "transfer": "anybody" })),
            ("transferExpiry", json!({ "transferExpiry": "" })),
            ("transferCooldownSeconds", json!({ "transferCooldownSeconds": "1d" })),
            ("onSourceLost", json!({ "onSourceLost": "revoke" })),
            ("sourceGraceSeconds", json!({ "sourceGraceSeconds": -1 })),
            ("suspensionPausesExpiry", json!({ "suspensionPausesExpiry": [] })),
            ("versions", json!({ "versions": "latest" })),
            ("features", json!({ "features": ["A"] })),
            ("features", json!({ "features": "pro" })),
            ("quotas", json!({ "quotas": quota(0) })),
        ] {
            let refused = app.change(&gold, policy.clone(), "").await;
            let found = (refused.status, refused.code(), refused.body["field"].as_str().unwrap_or_default());
            assert_eq!(found, (422, "VALIDATION_ERROR", &*format!("policy.{field}")), "{policy}: {refused:?}");
        }
        for path in ["/products?limit=0", "/products?limit=101"] {
            assert_eq!(app.get(path).await.code(), "VALIDATION_ERROR", "{path}");
        }
        assert_eq!(app.get("/products?cursor=tampered").await.code(), "INVALID_CURSOR");
        assert_eq!(stored(&t).await, before);
        t
    });
}

#[test]
fn what_belongs_to_another_tenant_or_api_key_is_not_found() {
    it_unstarted(|mut t| async {
        let (tenant, gold, owner) = prepare(&mut t).await;
        let (rivals, silver) = (TestTenant::new(t.core(), "Rivals").await, tenant.product("Silver", "SILV").await);
        let bricks = rivals.product("Bricks", "BRICK").await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let users = [Browser::new(&t), ana];
        let apps = [
            App::new(&t, &rivals, ApiKeyKind::Secret, &[&bricks]).await,
            App::new(&t, &tenant, ApiKeyKind::Secret, &[&silver]).await,
            App::new(&t, &tenant, ApiKeyKind::Publishable, &[&gold]).await,
        ];
        let (product, nothing) = (format!("/products/{}", gold.id), "/products/01900000-0000-7000-8000-000000000000");
        let before = stored(&t).await;
        for (method, path, body) in [
            (Method::GET, product.clone(), Value::Null),
            (Method::PATCH, product.clone(), json!({ "name": "Mine" })),
            (Method::GET, format!("{product}/policies"), Value::Null),
            (Method::POST, format!("{product}/policies"), json!({ "policy": { "maxDevices": 1 } })),
            (Method::GET, format!("/policies/{}", gold.policy_id), Value::Null),
            (Method::GET, nothing.to_owned(), Value::Null),
            (Method::PATCH, nothing.to_owned(), json!({ "name": "Mine" })),
            (Method::GET, "/policies/01900000-0000-7000-8000-000000000000".to_owned(), Value::Null),
            (Method::GET, "/policies/x".to_owned(), Value::Null),
        ] {
            for app in &apps {
                let refused = app.ask(method.clone(), &path, body.clone()).await;
                assert_eq!((refused.status, refused.code()), (404, "NOT_FOUND"), "{method} {path}: {refused:?}");
                assert!(!refused.text.contains("Gold"), "{refused:?}");
            }
            for (user, status) in users.iter().zip([401, 404]) {
                assert_eq!(user.ask(method.clone(), &path, body.clone(), &[]).await.status, status, "{method} {path}");
            }
        }
        assert_eq!(stored(&t).await, before);
        let names = async |app: &App| app.get("/products").await.body["data"][0]["name"].clone();
        assert_eq!(names(&apps[0]).await, "Bricks");
        assert_eq!(names(&apps[1]).await, "Silver");
        assert_eq!(names(&owner).await, "Gold");
        let publishable = apps[2].get("/products").await;
        assert_eq!((publishable.status, publishable.code()), (403, "ACCESS_DENIED"));
        assert_eq!(users[1].get("/products").await.body["data"], json!([]));
        t
    });
}

#[test]
fn a_product_is_created_for_a_tenant_that_the_user_manages() {
    it_unstarted(|mut t| async {
        let (tenant, _, app) = prepare(&mut t).await;
        let own = [900, 901, 902].map(|id| (id, format!("Guild {id}")));
        for (id, name) in &own {
            guilds::record_join(t.core(), (*id).into(), name).await.unwrap();
        }
        let root = signed_in_admin(&t).await;
        let (_, id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let ana = sign_in_as(&t, "ana@x.example").await;
        let tenant_of =
            async |guild: i64| -> TenantId { guilds::find(t.core(), GuildId(guild)).await.unwrap().unwrap().tenant_id };
        let create = async |browser: &Browser, name: &str, tenant: Option<TenantId>| {
            let response = browser.post("/products", json!({ "name": name, "tenantId": tenant })).await;
            (response.status, response.body["tenantId"].clone(), response.body["detail"].to_string())
        };
        let manage = |guild: &str| json!({ "userId": id.0, "role": "GUILD_MANAGER", "guildId": guild });
        assert_eq!(create(&ana, "A", None).await.0, 403, "she manages nothing");
        assert_eq!(root.post("/admin/roles/assign", manage("900")).await.status, 200);
        assert_eq!(create(&ana, "A", None).await.1, json!(tenant_of(900).await));
        assert_eq!(create(&ana, "B", Some(tenant_of(901).await)).await.0, 404);
        assert_eq!(root.post("/admin/roles/assign", manage("901")).await.status, 200);
        let (status, _, detail) = create(&ana, "B", None).await;
        assert!(status == 422 && detail.contains(&tenant_of(901).await.to_string()), "{status} {detail}");
        assert_eq!(create(&ana, "B", Some(tenant_of(901).await)).await.0, 201);
        assert_eq!(ana.get("/products").await.body["data"].as_array().unwrap().len(), 2);
        assert_eq!(create(&root, "C", None).await.0, 422);
        assert_eq!(create(&root, "C", Some(tenant_of(902).await)).await.0, 201);
        assert_eq!(create(&root, "C", Some(TenantId(id.0))).await.0, 404, "there is no such tenant");
        let form = json!({ "name": "D", "tenantId": tenant.caller.scope().tenant() });
        assert_eq!(app.ask(Method::POST, "/products", form).await.code(), "ACCESS_DENIED");
        t
    });
}

#[test]
fn of_parallel_changes_with_one_revision_exactly_one_succeeds() {
    it_unstarted(|mut t| async {
        let (_, gold, app) = prepare(&mut t).await;
        let before = log_head(t.core()).await;
        let changes = (1..=8).map(|n| app.change(&gold, json!({ "maxDevices": n }), "\"1\""));
        let mut statuses: Vec<_> = futures::future::join_all(changes).await.iter().map(|it| it.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 412, 412, 412, 412, 412, 412, 412]);
        assert_eq!(log_head(t.core()).await, before + 1);
        t
    });
}

#[test]
fn parallel_changes_without_a_revision_produce_distinct_versions() {
    it_unstarted(|mut t| async {
        let (_, gold, app) = prepare(&mut t).await;
        let members = ["maxDevices", "checkInSeconds", "durationSeconds", "resetCooldownSeconds", "offlineMaxSeconds"];
        let changes = members.map(|member| app.change(&gold, json!({ member: 77 }), ""));
        let changed = futures::future::join_all(changes).await;
        let versions: BTreeSet<_> = changed.iter().map(|it| it.body["version"].as_i64()).collect();
        assert_eq!(versions, (2..=6).map(Some).collect());
        let last = app.get(&format!("/products/{}", gold.id)).await;
        assert_eq!(last.header("etag"), "\"6\"");
        for member in members {
            assert_eq!(last.body["policy"]["terms"][member], 77, "no change is lost");
        }
        t
    });
}

#[test]
fn names_stay_unique_when_products_are_created_and_renamed_at_the_same_time() {
    it_unstarted(|mut t| async {
        let (tenant, ..) = prepare(&mut t).await;
        let root = signed_in_admin(&t).await;
        let owner = tenant.caller.scope().tenant();
        let mut paths = Vec::new();
        for name in ["A", "B", "C"] {
            let created = root.post("/products", json!({ "name": name, "tenantId": owner })).await;
            paths.push(format!("/products/{}", created.body["id"].as_str().unwrap()));
        }
        let renames = paths.iter().map(|path| root.ask(Method::PATCH, path, json!({ "name": "One" }), &[]));
        let form = |name: &str| json!({ "name": name, "tenantId": owner });
        let creations = ["one", "ONE", "One"].map(|name| root.post("/products", form(name)));
        let (renamed, created) =
            futures::future::join(futures::future::join_all(renames), futures::future::join_all(creations)).await;
        let statuses: Vec<_> = renamed.iter().chain(&created).map(|response| response.status).collect();
        let (done, refused): (Vec<u16>, Vec<u16>) = statuses.iter().partition(|status| **status < 300);
        assert_eq!((done.len(), refused), (1, vec![409; 5]), "{statuses:?}");
        t
    });
}

#[test]
fn a_license_keeps_the_version_that_it_was_issued_under() {
    it_unstarted(|mut t| async {
        let (tenant, gold, app) = prepare(&mut t).await;
        let (old, key) = tenant.license(&gold, 1).await;
        let terms = json!({ "features": ["pro"], "maxDevices": 2, "deviceRequired": false });
        let changed = app.change(&gold, terms, "").await;
        let (new, new_key) = tenant.license(&gold, 2).await;
        assert_eq!((old.policy_id, json!(new.policy_id)), (gold.policy_id, changed.body["id"].clone()));
        for (key, policy, features, devices) in [
            (key, json!(gold.policy_id), json!([]), Value::Null),
            (new_key, json!(new.policy_id), json!(["pro"]), json!(2)),
        ] {
            let license = t.validate(&app.key, &key).await["license"].clone();
            let found = (&license["policyId"], &license["features"], &license["limits"]["devices"]["max"]);
            assert_eq!(found, (&policy, &features, &devices));
        }
        t
    });
}

#[test]
fn products_and_versions_are_listed_page_by_page() {
    it_unstarted(|mut t| async {
        let (tenant, gold, app) = prepare(&mut t).await;
        for n in 1..=4 {
            assert_eq!(app.change(&gold, json!({ "maxDevices": n }), "").await.status, 201);
        }
        let versions = format!("/products/{}/policies?limit=2", gold.id);
        let (mut url, mut found) = (versions, Vec::new());
        loop {
            let page = app.get(&url).await;
            let data = page.body["data"].as_array().unwrap();
            found.extend(data.iter().map(|policy| policy["version"].as_i64().unwrap()));
            let Some(next) = page.header("link").split(['<', '>']).nth(1).map(str::to_owned) else { break };
            url = next[next.find("/products").unwrap()..].to_owned();
        }
        assert_eq!(found, [5, 4, 3, 2, 1]);
        let root = signed_in_admin(&t).await;
        tenant.product("Silver", "SILV").await;
        let first = root.get("/products?limit=1").await;
        assert_eq!(first.body["data"][0]["name"], "Silver");
        let cursor = first.body["nextCursor"].as_str().unwrap();
        assert_eq!(root.get(&format!("/products?cursor={cursor}")).await.body["data"][0]["name"], "Gold");
        assert_eq!(app.get(&format!("/products?cursor={cursor}")).await.code(), "INVALID_CURSOR", "of another caller");
        t
    });
}
