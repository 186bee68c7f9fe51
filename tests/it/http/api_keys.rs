//! `/api-keys`: who may manage API keys, what their settings may be, and when they work.

use chrono::Duration;
use dca_core::{
    api_key_scopes::ApiKeyScope,
    api_keys::NewApiKey,
    crypto::api_key::{ApiKeyKind, ApiKeyMode},
    guilds,
    products::Product,
    users::Role,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::{create_account, delete, events_of_kind, post, sign_in_as, signed_in_as, table_text},
    browser::{Browser, PASSWORD, Response},
    fixtures::{TestTenant, rows},
    harness::{TestApp, it_unstarted},
};

/// A tenant with a product, and a manager of it who is signed in.
struct Makers {
    tenant: TestTenant,
    gold: Product,
    guild: i64,
    manager: Browser,
    /// A super admin.
    root: Browser,
}

async fn makers(t: &mut TestApp) -> Makers {
    t.start_with_limits(&[("DCA_MANAGE_PER_MINUTE", "60000")]).await;
    let (root, _) = signed_in_as(t, "root@x.example", Role::SuperAdmin).await;
    let (tenant, gold, guild) = tenant_with_product(t, 900, "Makers").await;
    let manager = manager_of(t, &root, "ana@x.example", guild).await;
    Makers { tenant, gold, guild, manager, root }
}

async fn tenant_with_product(t: &TestApp, guild: i64, name: &str) -> (TestTenant, Product, i64) {
    let row = guilds::record_join(t.core(), dca_core::GuildId(guild), name).await.unwrap();
    let tenant = TestTenant { core: t.core().clone(), caller: dca_core::Caller::operator(row.tenant_id) };
    let gold = tenant.product("Gold", "GOLD").await;
    (tenant, gold, guild)
}

/// A signed-in user who manages a server.
async fn manager_of(t: &TestApp, root: &Browser, email: &str, guild: i64) -> Browser {
    let (manager, id) = signed_in_as(t, email, Role::User).await;
    let role = json!({ "userId": id.0, "role": "GUILD_MANAGER", "guildId": guild.to_string() });
    assert_eq!(root.post("/admin/roles/assign", role).await.status, 200);
    manager
}

fn settings(products: &[&Product]) -> Value {
    let ids: Vec<_> = products.iter().map(|product| product.id.0).collect();
    json!({ "name": "Game", "kind": "secret", "productIds": ids })
}

/// The same settings with another member.
fn with(mut settings: Value, member: &str, value: impl Into<Value>) -> Value {
    settings[member] = value.into();
    settings
}

async fn created(browser: &Browser, settings: Value) -> (String, Value) {
    let response = browser.post("/api-keys", settings).await;
    assert_eq!(response.status, 201, "{response:?}");
    (response.body["key"].as_str().unwrap().to_owned(), response.body)
}

/// What an app with this API key is answered about a license key.
async fn validated(t: &TestApp, api_key: &str, license_key: &str) -> Response {
    let headers = [("x-api-key", api_key)];
    Browser::new(t).ask(Method::POST, "/licenses/validate", json!({ "licenseKey": license_key }), &headers).await
}

#[test]
fn a_manager_creates_lists_and_revokes_keys() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, manager, .. } = makers(&mut t).await;
        let license = tenant.license(&gold, 1).await.1;
        let scopes = json!(["licenses:activate", "licenses:validate", "licenses:validate"]);
        let new = with(with(settings(&[&gold, &gold]), "kind", "publishable"), "scopes", scopes);
        let response = manager.post("/api-keys", new).await;
        assert_eq!((response.status, response.header("cache-control")), (201, "no-store"), "{response:?}");
        let (key, hint) = (response.body["key"].as_str().unwrap(), response.body["hint"].as_str().unwrap());
        assert!(key.starts_with("dca_pk_") && hint == format!("dca_pk_…{}", &key[39..]), "{response:?}");
        let id = response.body["id"].as_str().unwrap();
        let me = manager.get("/me").await.body["id"].as_str().unwrap().to_owned();
        let expected = json!({
            "id": id, "hint": hint, "name": "Game", "kind": "publishable", "mode": "live",
            "scopes": ["licenses:validate", "licenses:activate"], "productIds": [gold.id.0],
            "createdBy": format!("user:{me}"), "createdAt": "2026-03-01T12:00:00Z", "lastUsedAt": null,
            "expiresAt": null, "replacedBy": null, "revokedAt": null,
        });
        let listed = manager.get("/api-keys").await;
        assert_eq!(listed.body, json!({ "data": [expected], "nextCursor": null }));
        assert_eq!(validated(&t, key, &license).await.body["code"], "VALID");

        let url = format!("/api-keys/{}", hint.replace('…', "%E2%80%A6"));
        assert_eq!(delete(&manager, &url, Value::Null).await.status, 204, "by the form that the list shows");
        let refused = validated(&t, key, &license).await;
        assert_eq!((refused.status, refused.code()), (401, "INVALID_API_KEY"));
        let again = delete(&manager, &format!("/api-keys/{id}"), Value::Null).await;
        assert_eq!((again.status, again.code()), (404, "NOT_FOUND"), "{again:?}");
        assert_eq!(manager.get("/api-keys").await.body["data"][0]["revokedAt"], "2026-03-01T12:00:00Z");

        let label = json!({ "apiKeyId": id, "hint": hint, "mode": "live" });
        let revoked = events_of_kind(t.core(), "api_key.revoked").await;
        assert_eq!((revoked.len(), &revoked[0]["actor"]), (1, &json!(format!("user:{me}"))));
        let after = &revoked[0]["after"];
        // SQLite has JSON as text.
        let after = after.as_str().map_or_else(|| after.clone(), |text| serde_json::from_str(text).unwrap());
        assert_eq!(after, label);
        assert_eq!(events_of_kind(t.core(), "api_key.created").await.len(), 1);
        assert!(!table_text(t.core(), "events").await.contains(key) && !listed.text.contains(key));
        t
    });
}

#[test]
fn a_repeated_creation_returns_the_same_key() {
    it_unstarted(|mut t| async {
        let Makers { gold, manager, .. } = makers(&mut t).await;
        let create = async |key: &str| {
            manager.ask(Method::POST, "/api-keys", settings(&[&gold]), &[("idempotency-key", key)]).await
        };
        let (first, second) = (create("one").await, create("one").await);
        assert_eq!((first.status, &first.body), (201, &second.body), "{second:?}");
        assert_eq!(second.header("idempotency-replayed"), "true");
        assert_ne!(create("two").await.body["key"], first.body["key"]);
        assert_eq!(rows(t.core().db.writer(), "SELECT id FROM api_keys").await.len(), 2);
        t
    });
}

#[test]
fn keys_are_listed_in_pages_and_by_product() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, manager, root, .. } = makers(&mut t).await;
        let silver = tenant.product("Silver", "SILVER").await;
        let (_, foreign, _) = tenant_with_product(&t, 901, "Rivals").await;
        for products in [vec![&gold], vec![&silver], vec![&gold, &silver]] {
            created(&manager, settings(&products)).await;
        }
        created(&root, settings(&[&foreign])).await;
        let ids = |page: &Response| -> Vec<String> {
            let data = page.body["data"].as_array().unwrap().iter();
            data.map(|key| key["productIds"].as_array().unwrap().len().to_string() + key["id"].as_str().unwrap())
                .collect()
        };
        let all = ids(&manager.get("/api-keys").await);
        assert_eq!((all.len(), &all[0][..1]), (3, "2"), "newest first, and none of another tenant");
        assert_eq!(ids(&root.get("/api-keys").await).len(), 4, "an admin sees all");
        let first = manager.get("/api-keys?limit=2").await;
        assert_eq!(ids(&first), all[..2]);
        let next = first.header("link").split(['<', '>']).nth(1).unwrap().to_owned();
        let next = next.split_once("/api-keys").unwrap().1;
        assert_eq!(ids(&manager.get(&format!("/api-keys{next}")).await), all[2..]);
        assert_eq!(root.get(&format!("/api-keys{next}")).await.code(), "INVALID_CURSOR", "of another caller");
        let of = async |product: &Product| manager.get(&format!("/api-keys?productId={}", product.id)).await;
        assert_eq!(ids(&of(&gold).await), [all[0].clone(), all[2].clone()]);
        assert_eq!(of(&foreign).await.code(), "NOT_FOUND");
        t
    });
}

#[test]
fn a_rotated_key_works_until_its_overlap_ends() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, manager, .. } = makers(&mut t).await;
        let license = tenant.license(&gold, 1).await.1;
        let expires_at = (t.clock.now() + Duration::days(90)).to_rfc3339();
        let new = with(with(settings(&[&gold]), "expiresAt", expires_at), "scopes", json!(["licenses:validate"]));
        let rotate = async |id: &Value, body: Value| {
            manager.post(&format!("/api-keys/{}/rotate", id.as_str().unwrap()), body).await
        };
        let mut generations = vec![created(&manager, new).await];
        // Without a body, the overlap is a day.
        for body in [Value::Null, json!({ "overlapSeconds": 3_600 }), json!({ "overlapSeconds": 0 })] {
            let former = &generations.last().unwrap().1;
            let rotated = rotate(&former["id"], body).await;
            assert_eq!(rotated.status, 201, "{rotated:?}");
            for same in ["name", "kind", "mode", "scopes", "productIds", "expiresAt"] {
                assert_eq!(rotated.body[same], former[same], "{same}");
            }
            generations.push((rotated.body["key"].as_str().unwrap().to_owned(), rotated.body));
        }
        let again = rotate(&generations[0].1["id"], Value::Null).await;
        assert_eq!((again.status, again.code()), (409, "CONFLICT"), "{again:?}");
        let ended = rotate(&generations[2].1["id"], Value::Null).await;
        assert_eq!((ended.status, ended.code()), (404, "NOT_FOUND"), "{ended:?}");
        let listed = manager.get("/api-keys").await.body;
        assert_eq!(listed["data"][3]["replacedBy"], generations[1].1["id"]);
        for (after, working) in [
            (Duration::zero(), [true, true, false, true]),
            (Duration::minutes(59), [true, true, false, true]),
            (Duration::minutes(1), [true, false, false, true]),
            (Duration::hours(23), [false, false, false, true]),
            (Duration::days(89) - Duration::seconds(1), [false, false, false, true]),
            (Duration::seconds(1), [false; 4]),
        ] {
            t.advance(after);
            for ((key, _), works) in generations.iter().zip(working) {
                let response = validated(&t, key, &license).await;
                let code = if works { "VALID" } else { "INVALID_API_KEY" };
                assert_eq!((response.status == 200, response.code()), (works, code), "{}: {response:?}", t.clock.now());
            }
        }
        assert_eq!(events_of_kind(t.core(), "api_key.rotated").await.len(), 3);
        t
    });
}

#[test]
fn the_new_key_of_a_rotation_has_the_lifetime_of_the_former() {
    it_unstarted(|mut t| async {
        let Makers { gold, manager, .. } = makers(&mut t).await;
        let expires_at = (t.clock.now() + Duration::days(90)).to_rfc3339();
        let (_, former) = created(&manager, with(settings(&[&gold]), "expiresAt", expires_at)).await;
        t.advance(Duration::days(80));
        let manager = sign_in_as(&t, "ana@x.example").await;
        let path = format!("/api-keys/{}/rotate", former["id"].as_str().unwrap());
        let tomorrow = (t.clock.now() + Duration::days(90)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        let too_long = manager.post(&path, json!({ "overlapSeconds": 30 * 86_400 + 1 })).await;
        assert_eq!((too_long.status, &too_long.body["field"]), (422, &json!("overlapSeconds")), "{too_long:?}");
        let rotated = manager.post(&path, json!({ "overlapSeconds": 30 * 86_400 })).await;
        assert_eq!((rotated.status, &rotated.body["expiresAt"]), (201, &json!(tomorrow)), "{rotated:?}");
        let listed = manager.get("/api-keys").await.body;
        assert_eq!(listed["data"][1]["expiresAt"], former["expiresAt"], "an overlap does not extend a key");
        t
    });
}

#[test]
fn invalid_settings_of_a_key_are_refused_and_nothing_is_created() {
    it_unstarted(|mut t| async {
        let Makers { gold, manager, root, .. } = makers(&mut t).await;
        let (_, foreign, _) = tenant_with_product(&t, 901, "Rivals").await;
        let good = settings(&[&gold]);
        let pk = with(good.clone(), "kind", "publishable");
        let change = |member: &str, value: Value| with(good.clone(), member, value);
        let without = |member: &str| {
            let mut settings = good.clone();
            settings.as_object_mut().unwrap().remove(member);
            settings
        };
        let unknown = uuid::Uuid::nil();
        for (status, field, body) in [
            (422, "name", without("name")),
            (422, "name", change("name", "".into())),
            (422, "name", change("name", " \t ".into())),
            (422, "name", change("name", "a\nb".into())),
            (422, "name", change("name", "a".repeat(101).into())),
            (422, "name", change("name", "Studio\u{202E}".into())),
            (422, "name", change("name", json!(["Studio"]))),
            (422, "kind", without("kind")),
            (422, "kind", change("kind", "admin".into())),
            (422, "mode", change("mode", "TEST".into())),
            (422, "scopes", change("scopes", json!([]))),
            (422, "scopes[0]", change("scopes", json!(["licenses:all"]))),
            (422, "scopes", with(pk.clone(), "scopes", json!(["licenses:validate", "licenses:read"]))),
            (422, "scopes", with(pk, "scopes", json!(["licenses:write"]))),
            (422, "expiresAt", change("expiresAt", "2026-03-01T12:00:00Z".into())),
            (422, "expiresAt", change("expiresAt", "2020-01-01T00:00:00Z".into())),
            (422, "expiresAt", change("expiresAt", "9999-12-31T23:59:59Z".into())),
            (422, "expiresAt", change("expiresAt", "tomorrow".into())),
            (422, "expiresAt", change("expiresAt", 4_102_444_800_i64.into())),
            (422, "productIds", without("productIds")),
            (422, "productIds", change("productIds", json!([]))),
            (422, "productIds", change("productIds", json!(vec![gold.id.0; 101]))),
            (422, "productIds[0]", change("productIds", json!(["Gold"]))),
            (404, "", change("productIds", json!([unknown]))),
            (404, "", change("productIds", json!([foreign.id.0]))),
            (404, "", change("productIds", json!([gold.id.0, foreign.id.0]))),
            (422, "tenantId", change("tenantId", json!(foreign.tenant_id.0))),
            (422, "userId", change("userId", json!(unknown))),
            (422, "key", change("key", "dca_sk_mine".into())),
        ] {
            let response = manager.post("/api-keys", body.clone()).await;
            let field = Some(field).filter(|field| !field.is_empty());
            assert_eq!((response.status, response.body["field"].as_str()), (status, field), "{body}: {response:?}");
        }
        let of_two = root.post("/api-keys", settings(&[&gold, &foreign])).await;
        assert_eq!((of_two.status, &of_two.body["field"]), (422, &json!("productIds")), "{of_two:?}");
        assert_eq!(rows(t.core().db.writer(), "SELECT id FROM api_keys").await, [] as [Value; 0]);
        created(&manager, good).await;
        t
    });
}

#[test]
fn only_a_session_that_manages_the_products_makes_and_ends_keys() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, root, .. } = makers(&mut t).await;
        let (row, secret) = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await;
        let (_, _, rivals) = tenant_with_product(&t, 901, "Rivals").await;
        let rival = manager_of(&t, &root, "rival@x.example", rivals).await;
        let (user, id) = signed_in_as(&t, "user@x.example", Role::User).await;
        let (moderator, _) = signed_in_as(&t, "moderator@x.example", Role::Moderator).await;
        let bearer = Browser::new(&t);
        bearer.set_access_token(Some(&secret));
        let nobody = Browser::new(&t);
        let own = with(settings(&[&gold]), "userId", json!(id.0));
        assert_eq!(nobody.post("/api-keys", own).await.code(), "NO_TOKEN", "whatever the body says");
        let before = table_text(t.core(), "api_keys").await;
        let key = [("x-api-key", secret.as_str())];
        for (who, browser, headers, create, change) in [
            ("nobody", &nobody, &[][..], (401, "NO_TOKEN"), (401, "NO_TOKEN")),
            ("a secret key", &nobody, &key[..], (401, "NO_TOKEN"), (401, "NO_TOKEN")),
            ("a secret key as a token", &bearer, &[], (401, "INVALID_TOKEN"), (401, "INVALID_TOKEN")),
            ("a user", &user, &[], (404, "NOT_FOUND"), (404, "NOT_FOUND")),
            ("a manager of another tenant", &rival, &[], (404, "NOT_FOUND"), (404, "NOT_FOUND")),
            ("a moderator", &moderator, &[], (403, "ACCESS_DENIED"), (404, "NOT_FOUND")),
        ] {
            let (path, hint) = (format!("/api-keys/{}", row.id), row.hint.replace('…', "%E2%80%A6"));
            let ask = async |method, path: &str, body: Value| {
                let response = browser.ask(method, path, body, headers).await;
                (response.status, response.code().to_owned())
            };
            let of = |(status, code): (u16, &str)| (status, code.to_owned());
            assert_eq!(ask(Method::POST, "/api-keys", settings(&[&gold])).await, of(create), "{who} creates");
            assert_eq!(ask(Method::POST, &format!("{path}/rotate"), json!({})).await, of(change), "{who} rotates");
            assert_eq!(ask(Method::DELETE, &path, Value::Null).await, of(change), "{who} revokes");
            assert_eq!(
                ask(Method::DELETE, &format!("/api-keys/{hint}"), Value::Null).await,
                of(change),
                "{who} revokes"
            );
            let listed = browser.ask(Method::GET, "/api-keys", Value::Null, headers).await;
            assert!(listed.status == 401 || listed.body["data"] == json!([]), "{who} lists {listed:?}");
        }
        assert_eq!(table_text(t.core(), "api_keys").await, before);
        t
    });
}

#[test]
fn a_former_manager_creates_no_keys_and_theirs_stay_with_the_tenant() {
    it_unstarted(|mut t| async {
        let Makers { gold, guild, manager, root, .. } = makers(&mut t).await;
        let (_, theirs) = created(&manager, settings(&[&gold])).await;
        let form = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
        assert_eq!(post(&t, "/auth/signup", form).await.status, 201);
        let unverified = Browser::new(&t);
        assert_eq!(unverified.sign_in("new@x.example").await.code(), "EMAIL_NOT_VERIFIED");
        assert_eq!(unverified.post("/api-keys", settings(&[&gold])).await.code(), "NO_TOKEN");

        let me = manager.get("/me").await.body["id"].clone();
        let role = json!({ "userId": me, "role": "GUILD_MANAGER", "guildId": guild.to_string() });
        assert_eq!(root.post("/admin/roles/revoke", role).await.status, 200);
        let refused = manager.post("/api-keys", settings(&[&gold])).await;
        assert_eq!((refused.status, refused.code()), (404, "NOT_FOUND"), "{refused:?}");

        let successor = manager_of(&t, &root, "ben@x.example", guild).await;
        let token = successor.access_token().unwrap();
        let listed = successor.get("/api-keys").await.body;
        assert_eq!(listed["data"][0]["createdBy"], format!("user:{}", me.as_str().unwrap()));
        let path = format!("/api-keys/{}", theirs["id"].as_str().unwrap());
        assert_eq!(delete(&successor, &path, Value::Null).await.status, 204);
        assert_eq!(successor.post("/auth/logout", Value::Null).await.status, 200);
        successor.set_access_token(Some(&token));
        let ended = successor.post("/api-keys", settings(&[&gold])).await;
        assert_eq!((ended.status, ended.code()), (401, "INVALID_SESSION"), "{ended:?}");
        assert_eq!(rows(t.core().db.writer(), "SELECT id FROM api_keys").await.len(), 1);
        t
    });
}

#[test]
fn managing_keys_needs_the_second_factor_that_the_role_requires() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_REQUIRE_SECOND_FACTOR", "admins")]).await;
        let (_, gold, _) = tenant_with_product(&t, 900, "Makers").await;
        create_account(&t, "root@x.example", Role::Admin).await;
        let root = sign_in_as(&t, "root@x.example").await;
        for response in [root.post("/api-keys", settings(&[&gold])).await, root.get("/api-keys").await] {
            assert_eq!((response.status, response.code()), (401, "REQUIRES_2FA"), "{response:?}");
        }
        t
    });
}

/// Every route for apps: the scope that it needs, and a request for a license key.
const APP_ROUTES: [(ApiKeyScope, &str, &str); 1] = [(ApiKeyScope::Validate, "POST", "/licenses/validate")];

#[test]
fn each_app_route_needs_its_scope_and_its_product() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, .. } = makers(&mut t).await;
        let silver = tenant.product("Silver", "SILVER").await;
        let license = tenant.license(&gold, 1).await.1;
        for (scope, method, path) in APP_ROUTES {
            let ask = async |product: &Product, scopes: Vec<ApiKeyScope>| {
                let new = NewApiKey::new(ApiKeyKind::Secret, "app", &[product.id]);
                let key = tenant.api_key_with(NewApiKey { scopes: Some(scopes), ..new }).await.1;
                let body = json!({ "licenseKey": license, "device": { "fingerprint": "a".repeat(32) } });
                let method = Method::from_bytes(method.as_bytes()).unwrap();
                Browser::new(&t).ask(method, path, body, &[("x-api-key", &key)]).await
            };
            let others: Vec<_> = ApiKeyScope::ALL.iter().copied().filter(|other| *other != scope).collect();
            let refused = ask(&gold, others).await;
            assert_eq!((refused.status, refused.code()), (403, "ACCESS_DENIED"), "{path}: {refused:?}");
            assert!(refused.text.contains(scope.as_str()), "{path}: {refused:?}");
            let foreign = ask(&silver, vec![scope]).await;
            assert_eq!(foreign.body["code"], "NOT_FOUND", "{path} of another product: {foreign:?}");
            assert!(foreign.body["license"].is_null(), "{path}: {foreign:?}");
            let allowed = ask(&gold, vec![scope]).await;
            assert!(matches!(allowed.status, 200..300), "{path}: {allowed:?}");
        }
        t
    });
}

#[test]
fn a_publishable_key_has_no_scope_to_read_or_write() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, .. } = makers(&mut t).await;
        let path = format!("/products/{}/test-keys", gold.id);
        for (kind, status) in [(ApiKeyKind::Publishable, 404), (ApiKeyKind::Secret, 200)] {
            let key = tenant.api_key(kind, &[&gold]).await.1;
            let response = Browser::new(&t).ask(Method::GET, &path, Value::Null, &[("x-api-key", &key)]).await;
            assert_eq!(response.status, status, "{response:?}");
        }
        t
    });
}

/// Tables that a request about a test key could change.
const TABLES: [&str; 6] = ["licenses", "devices", "leases", "license_usage", "events", "outbox"];

#[test]
fn test_keys_give_their_verdict_and_touch_nothing() {
    it_unstarted(|mut t| async {
        let Makers { tenant, gold, manager, root, .. } = makers(&mut t).await;
        let (_, real) = tenant.license(&gold, 1).await;
        let live = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1;
        let new = NewApiKey::new(ApiKeyKind::Publishable, "test", &[gold.id]);
        let test = tenant.api_key_with(NewApiKey { mode: ApiKeyMode::Test, ..new }).await.1;
        assert!(test.starts_with("dca_pk_test_"), "{test}");
        let path = format!("/products/{}/test-keys", gold.id);
        let keys = manager.get(&path).await;
        assert_eq!((keys.status, &keys.body), (200, &root.get(&path).await.body), "{keys:?}");
        let mut before = Vec::new();
        for table in TABLES {
            before.push(table_text(t.core(), table).await);
        }
        let mut answers = Vec::new();
        for entry in keys.body.as_array().unwrap() {
            let (code, key) = (&entry["code"], entry["licenseKey"].as_str().unwrap());
            let answer = validated(&t, &test, key).await;
            assert_eq!(
                (answer.status, &answer.body["code"], &answer.body["test"]),
                (200, code, &json!(true)),
                "{answer:?}"
            );
            assert_eq!(answer.body["valid"], code == "VALID", "{answer:?}");
            let unlocked = validated(&t, &live, key).await.body;
            let expected = if code == "MALFORMED_KEY" { code.clone() } else { json!("NOT_FOUND") };
            assert_eq!((&unlocked["code"], &unlocked["test"]), (&expected, &Value::Null), "a live key: {unlocked}");
            answers.push((key, answer.body["license"].clone()));
        }
        t.advance(Duration::days(1_000));
        for (key, license) in answers {
            assert_eq!(validated(&t, &test, key).await.body["license"], license, "the same at any time");
        }
        assert_eq!(validated(&t, &test, &real).await.body["code"], "NOT_FOUND", "a real license");
        for (table, before) in TABLES.iter().zip(before) {
            assert_eq!(table_text(t.core(), table).await, before, "{table}");
        }
        let stranger = signed_in_as(&t, "user@x.example", Role::User).await.0;
        assert_eq!(stranger.get(&path).await.code(), "NOT_FOUND");
        t
    });
}
