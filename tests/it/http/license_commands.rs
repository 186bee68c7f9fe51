//! The commands about one license: states, access, revisions, and races.

use dca_core::{
    crypto::api_key::ApiKeyKind,
    entitlements::Level,
    ids::{LicenseId, UserId},
    licenses::{self, License, LicenseState},
    precondition::IfMatch,
    products::Product,
    users::{Recipient, Role},
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    accounts::{execute, signed_in_as},
    browser::{Browser, Response},
    fixtures::{RECONCILED, TestTenant, log_head, rows},
    harness::{TestApp, it_unstarted},
};

/// Sends requests with an API key.
pub(super) struct Client {
    browser: Browser,
    api_key: String,
}

impl Client {
    pub(super) async fn new(t: &TestApp, tenant: &TestTenant, products: &[&Product]) -> Self {
        let (_, api_key) = tenant.api_key(ApiKeyKind::Secret, products).await;
        Self { browser: Browser::new(t), api_key }
    }

    pub(super) async fn ask(&self, method: Method, path: &str, body: Value, headers: &[(&str, &str)]) -> Response {
        let headers = [&[("X-API-Key", self.api_key.as_str())], headers].concat();
        self.browser.ask(method, path, body, &headers).await
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path, Value::Null, &[]).await
    }

    pub(super) async fn post(&self, path: &str, body: Value) -> Response {
        self.ask(Method::POST, path, body, &[]).await
    }
}

/// Creates a user without an account and without Discord, who therefore gets no messages.
pub(super) async fn new_user(t: &TestApp) -> UserId {
    let id = UserId(t.core().ids.v7(t.clock.now()));
    let sql = "INSERT INTO users (id, created_at, status, role, deletion_by_admin)";
    execute(
        t.core(),
        &format!("{sql} VALUES ({}, '2026-02-01 00:00:00+00:00', 'ACTIVE', 'USER', FALSE)", sql_id(t, id.0)),
    )
    .await;
    id
}

/// An id as an SQL literal.
pub(super) fn sql_id(t: &TestApp, id: Uuid) -> String {
    if t.core().db.is_shared() { format!("'{id}'") } else { format!("X'{}'", id.simple()) }
}

/// A license that no one has.
pub(super) async fn generated(tenant: &TestTenant, product: &Product) -> (License, String) {
    tenant.generated(product).await
}

/// A license that was assigned to a new user.
pub(super) async fn assigned(t: &TestApp, tenant: &TestTenant, product: &Product) -> (License, UserId) {
    let (license, _) = generated(tenant, product).await;
    let owner = new_user(t).await;
    let change = licenses::Change::Assign(Recipient::User(owner));
    let license =
        licenses::change(&tenant.core, &tenant.caller, license.id, &IfMatch::default(), change).await.unwrap();
    (license, owner)
}

/// Replaces the current terms of a product; others have their default.
pub(super) async fn set_terms(t: &TestApp, product: &Product, terms: Value) {
    let id = sql_id(t, product.policy_id.0);
    execute(t.core(), &format!("UPDATE policies SET terms = '{terms}' WHERE id = {id}")).await;
}

pub(super) async fn find(t: &TestApp, tenant: &TestTenant, id: LicenseId) -> (License, LicenseState) {
    licenses::inspect(t.core(), &tenant.caller.scope(), &id.to_string()).await.unwrap()
}

/// A time before every test, as an SQL literal.
const PAST: &str = "'2026-02-01 00:00:00+00:00'";

/// An assigned license whose times put it into a state.
async fn in_state(t: &TestApp, tenant: &TestTenant, product: &Product, state: LicenseState) -> License {
    if state == LicenseState::Generated {
        return generated(tenant, product).await.0;
    }
    let license = assigned(t, tenant, product).await.0;
    let changes: &[&str] = match state {
        LicenseState::Activated => &["activated_at"],
        LicenseState::Active => &["activated_at", "first_valid_at"],
        LicenseState::Suspended => &["activated_at", "first_valid_at", "suspended_at"],
        LicenseState::Expired => &["activated_at", "first_valid_at", "expires_at", "lapses_at"],
        LicenseState::Renewed => &["activated_at", "renewed_at"],
        LicenseState::Revoked => &["revoked_at"],
        LicenseState::Generated | LicenseState::Assigned => &[],
    };
    for column in changes {
        let id = sql_id(t, license.id.0);
        execute(t.core(), &format!("UPDATE licenses SET {column} = {PAST} WHERE id = {id}")).await;
    }
    let (license, now) = find(t, tenant, license.id).await;
    assert_eq!(now, state);
    license
}

/// Every command, its body, and the states that allow it in the order of [`LicenseState`].
fn commands(other: UserId) -> [(&'static str, Value, &'static str); 7] {
    [
        ("assign", json!({ "userId": other }), "x......."),
        ("transfer", json!({ "userId": other }), ".xxx..x."),
        ("suspend", json!({ "reason": "test" }), ".xxx..x."),
        ("resume", Value::Null, "....x..."),
        ("renew", json!({ "until": "2030-01-01T00:00:00Z" }), ".xxx.xx."),
        ("revoke", json!({ "reason": "test" }), "xxxxxxx."),
        ("rotate-key", Value::Null, "xxxxxxx."),
    ]
}

#[test]
fn a_command_that_the_state_does_not_allow_changes_nothing() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        for (index, &state) in LicenseState::ALL.iter().enumerate() {
            let mut license = in_state(&t, &tenant, &gold, state).await;
            for (command, body, allowed) in commands(new_user(&t).await) {
                let (path, head) = (format!("/licenses/{}/{command}", license.id), log_head(t.core()).await);
                let answer = client.post(&path, body).await;
                if allowed.as_bytes()[index] == b'x' {
                    assert_eq!(answer.status, 200, "{command} {state}: {answer:?}");
                    assert!(log_head(t.core()).await > head, "{command} {state}");
                    license = in_state(&t, &tenant, &gold, state).await;
                    continue;
                }
                assert_eq!(
                    (answer.status, answer.code()),
                    (409, "INVALID_TRANSITION"),
                    "{command} {state}: {answer:?}"
                );
                assert_eq!(log_head(t.core()).await, head, "{command} {state}");
                assert_eq!(find(&t, &tenant, license.id).await.0, license, "{command} {state}");
            }
        }
        t
    });
}

#[test]
fn of_parallel_changes_with_one_revision_one_is_made() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (license, _) = assigned(&t, &tenant, &gold).await;
        let path = format!("/licenses/{}", license.id);
        let shown = client.get(&path).await;
        let (etag, head) = (shown.header("etag").to_owned(), log_head(t.core()).await);
        assert_eq!(etag, format!("\"{}\"", license.rev));
        let (suspend, if_match) = (format!("{path}/suspend"), [("If-Match", etag.as_str())]);
        let body = json!({ "reason": "test" });
        let answers = join_all((0..8).map(|_| client.ask(Method::POST, &suspend, body.clone(), &if_match))).await;
        let made: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(made.len(), 1, "{answers:?}");
        assert_eq!(made[0].body["rev"], license.rev + 1);
        assert!(answers.iter().all(|answer| [200, 409, 412].contains(&answer.status)), "{answers:?}");
        assert_eq!(log_head(t.core()).await, head + 1);
        let stale = client.ask(Method::PATCH, &path, json!({ "name": "a" }), &if_match).await;
        assert_eq!((stale.status, stale.code()), (412, "PRECONDITION_FAILED"));
        t
    });
}

#[test]
fn of_parallel_assignments_and_redemptions_of_one_license_one_succeeds() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (license, key) = generated(&tenant, &gold).await;
        let (path, mut members, mut users) = (format!("/licenses/{}/assign", license.id), Vec::new(), Vec::new());
        for n in 0..3 {
            members.push(signed_in_as(&t, &format!("m{n}@x.example"), Role::User).await.0);
            users.push(new_user(&t).await);
        }
        let assignments = join_all(users.iter().map(|user| client.post(&path, json!({ "userId": user }))));
        let redeem = json!({ "licenseKey": key });
        let redemptions = join_all(members.iter().map(|member| member.post("/licenses/redeem", redeem.clone())));
        let (assigned, redeemed) = tokio::join!(assignments, redemptions);
        let answers: Vec<_> = assigned.into_iter().chain(redeemed).collect();
        let made = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(made == 1 && answers.iter().all(|answer| [200, 409].contains(&answer.status)), "{answers:?}");
        let (license, state) = find(&t, &tenant, license.id).await;
        assert_eq!(state, LicenseState::Assigned);
        let sql =
            format!("SELECT kind FROM entitlement_sources WHERE user_id = {}", sql_id(&t, license.user_id.unwrap().0));
        assert_eq!(rows(t.core().db.writer(), &sql).await, [json!({ "kind": "assignment" })]);
        t
    });
}

/// A manager of a tenant, by a Discord server of it, who is signed in.
pub(super) async fn manager(t: &TestApp, tenant: &TestTenant, guild: i64, email: &str) -> Browser {
    let (browser, user) = signed_in_as(t, email, Role::User).await;
    let (owner, user) = (sql_id(t, tenant.caller.scope().tenant().0), sql_id(t, user.0));
    let time = PAST;
    let columns = "guilds (id, tenant_id, name, failed_reads, created_at)";
    execute(t.core(), &format!("INSERT INTO {columns} VALUES ({guild}, {owner}, 'Makers', 0, {time})")).await;
    let columns = "guild_managers (guild_id, user_id, created_at)";
    execute(t.core(), &format!("INSERT INTO {columns} VALUES ({guild}, {user}, {time})")).await;
    browser
}

#[test]
fn a_license_of_others_is_not_found_by_every_route() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (tenant, other) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Others").await);
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, other.product("Silver", "SILVER").await);
        let foreign_key = Client::new(&t, &other, &[&silver]).await;
        let sibling = tenant.product("Bronze", "BRONZE").await;
        let sibling_key = Client::new(&t, &tenant, &[&sibling]).await;
        let foreign_manager = manager(&t, &other, 71, "manager@x.example").await;
        let member = signed_in_as(&t, "member@x.example", Role::User).await.0;
        let (license, _) = assigned(&t, &tenant, &gold).await;
        let head = log_head(t.core()).await;
        let path = format!("/licenses/{}", license.id);
        for (command, body, _) in commands(new_user(&t).await) {
            let path = format!("{path}/{command}");
            let answers = [
                foreign_key.post(&path, body.clone()).await,
                sibling_key.post(&path, body.clone()).await,
                foreign_manager.post(&path, body.clone()).await,
                member.post(&path, body).await,
            ];
            let expected = |by_member: bool| if by_member && command == "transfer" { 403 } else { 404 };
            for (index, answer) in answers.iter().enumerate() {
                assert_eq!(answer.status, expected(index == 3), "{command} {index}: {answer:?}");
            }
        }
        for client in [&foreign_key, &sibling_key] {
            assert_eq!(client.get(&path).await.status, 404);
            assert_eq!(client.ask(Method::PATCH, &path, json!({ "name": "a" }), &[]).await.status, 404);
        }
        for browser in [&foreign_manager, &member] {
            assert_eq!(browser.get(&path).await.status, 404);
            assert_eq!(browser.ask(Method::PATCH, &path, json!({ "name": "a" }), &[]).await.status, 404);
        }
        let unknown = format!("/licenses/{}/transfer", Uuid::max());
        let answer = member.post(&unknown, json!({ "userId": Uuid::max() })).await;
        assert_eq!((answer.status, answer.code()), (403, "ACCESS_DENIED"), "like one that exists");
        assert_eq!(Browser::new(&t).get(&path).await.status, 401);
        assert_eq!((log_head(t.core()).await, find(&t, &tenant, license.id).await.0), (head, license));
        t
    });
}

#[test]
fn owners_and_managers_do_what_they_may() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        set_terms(&t, &gold, json!({ "transfer": "owner", "transferCooldownSeconds": 3600 })).await;
        let manager = manager(&t, &tenant, 72, "manager@x.example").await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (bob, bob_id) = signed_in_as(&t, "bob@x.example", Role::User).await;
        let (license, key) = generated(&tenant, &gold).await;
        let path = format!("/licenses/{}", license.id);
        let redeemed = ana.post("/licenses/redeem", json!({ "licenseKey": key })).await;
        assert_eq!((redeemed.status, &redeemed.body["state"]), (200, &json!("assigned")), "{redeemed:?}");
        let again = ana.post("/licenses/redeem", json!({ "licenseKey": key })).await;
        assert_eq!((again.status, &again.body["rev"]), (200, &redeemed.body["rev"]));
        let taken = bob.post("/licenses/redeem", json!({ "licenseKey": key })).await;
        assert_eq!((taken.status, taken.code()), (409, "CONFLICT"));
        let malformed = bob.post("/licenses/redeem", json!({ "licenseKey": "GOLD-1" })).await;
        assert_eq!((malformed.status, malformed.code()), (422, "MALFORMED_KEY"));
        for command in ["suspend", "revoke"] {
            let answer = ana.post(&format!("{path}/{command}"), json!({ "reason": "test" })).await;
            assert_eq!((answer.status, answer.code()), (403, "ACCESS_DENIED"), "{command}");
        }
        for command in ["resume", "rotate-key", "renew"] {
            assert_eq!(ana.post(&format!("{path}/{command}"), Value::Null).await.status, 403, "{command}");
        }
        let (transfer, to_bob) = (format!("{path}/transfer"), json!({ "userId": bob_id }));
        assert_eq!(ana.post(&transfer, to_bob).await.status, 200);
        assert_eq!(ana.get(&path).await.status, 404);
        let back = bob.post(&transfer, json!({ "userId": new_user(&t).await })).await;
        assert_eq!((back.status, back.code()), (409, "CONFLICT"), "the cooldown: {back:?}");
        assert_eq!(back.header("retry-after"), "3600");
        assert_eq!(manager.post(&transfer, json!({ "userId": new_user(&t).await })).await.status, 200);
        let suspended = manager.post(&format!("{path}/suspend"), json!({ "reason": "chargeback" })).await;
        assert_eq!(
            (&suspended.body["state"], &suspended.body["suspendReason"]),
            (&json!("suspended"), &json!("chargeback"))
        );
        t
    });
}

#[test]
fn a_transferred_or_rotated_key_is_unknown_and_the_new_one_is_valid() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (license, key) = tenant.license(&gold, 1).await;
        let (path, to) = (format!("/licenses/{}", license.id), new_user(&t).await);
        execute(t.core(), "UPDATE entitlement_sources SET kind = 'discord_role'").await;
        assert_eq!(t.validate(&client.api_key, &key).await["code"], "VALID");
        let transferred = client.post(&format!("{path}/transfer"), json!({ "userId": to })).await;
        assert_eq!((&transferred.body["state"], &transferred.body["keyEpoch"]), (&json!("assigned"), &json!(2)));
        assert_eq!(t.validate(&client.api_key, &key).await["code"], "NOT_FOUND");
        // The former owner still has the role, which gives no new license.
        tenant.observe(&gold, 1, Level::Present, RECONCILED).await.unwrap();
        assert_eq!(tenant.unrevoked_licenses(&gold, 1).await, []);
        let rotated = client.post(&format!("{path}/rotate-key"), Value::Null).await;
        let new_key = rotated.body["key"].as_str().unwrap();
        assert_eq!(t.validate(&client.api_key, new_key).await["code"], "VALID");
        let again = client.post(&format!("{path}/rotate-key"), Value::Null).await;
        assert_eq!(t.validate(&client.api_key, new_key).await["code"], "NOT_FOUND");
        assert_eq!(t.validate(&client.api_key, again.body["key"].as_str().unwrap()).await["code"], "VALID");
        let back = client.post(&format!("{path}/transfer"), json!({ "userId": tenant.user(1).await })).await;
        assert_eq!(back.status, 200, "{back:?}");
        // The new key is sent by direct message, which nothing delivers here.
        t.abandon();
        t
    });
}

#[test]
fn transfers_in_both_directions_at_once_complete() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, tenant.product("Silver", "SILVER").await);
        let client = Client::new(&t, &tenant, &[&gold, &silver]).await;
        for _ in 0..4 {
            let ((one, ana), (two, bob)) = (assigned(&t, &tenant, &gold).await, assigned(&t, &tenant, &silver).await);
            let transfer = |license: &License, to: UserId| {
                let path = format!("/licenses/{}/transfer", license.id);
                let client = &client;
                async move { client.post(&path, json!({ "userId": to })).await.status }
            };
            let statuses = tokio::join!(transfer(&one, bob), transfer(&two, ana));
            assert_eq!(statuses, (200, 200));
        }
        t
    });
}

#[test]
fn metadata_names_dates_and_recipients_are_checked() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (license, _) = assigned(&t, &tenant, &gold).await;
        let (path, patch) = (format!("/licenses/{}", license.id), Method::PATCH);
        let edited = json!({ "name": " Studio 4 ", "metadata": { "order": { "id": 7 }, "note": "x" } });
        let edited = client.ask(patch.clone(), &path, edited, &[]).await;
        assert_eq!((edited.status, &edited.body["name"]), (200, &json!("Studio 4")), "{edited:?}");
        let edited = client.ask(patch.clone(), &path, json!({ "name": null, "metadata": { "note": null } }), &[]).await;
        assert_eq!([&edited.body["name"], &edited.body["metadata"]], [&Value::Null, &json!({ "order": { "id": 7 } })]);
        let head = log_head(t.core()).await;
        let unchanged = client.ask(patch.clone(), &path, json!({}), &[]).await;
        assert_eq!((unchanged.status, &unchanged.body["rev"]), (200, &edited.body["rev"]));
        let wide: Value = (0..65).map(|n| (n.to_string(), json!(n))).collect::<serde_json::Map<_, _>>().into();
        for (command, body, field) in [
            ("", json!({ "metadata": wide }), "metadata"),
            ("", json!({ "metadata": { "a": "x".repeat(16 * 1024) } }), "metadata"),
            ("", json!({ "metadata": { "a": { "b": { "c": { "d": {} } } } } }), "metadata"),
            ("", json!({ "metadata": { "a": "\0" } }), "metadata"),
            ("", json!({ "metadata": [] }), "metadata"),
            ("", json!({ "name": "" }), "name"),
            ("", json!({ "name": "a\u{202E}b" }), "name"),
            ("", json!({ "name": "x".repeat(256) }), "name"),
            ("", json!({ "state": "active" }), "state"),
            ("/renew", json!({ "until": "2026-03-01T12:00:00Z" }), "until"),
            ("/renew", json!({ "until": "10000-01-01T00:00:00Z" }), "until"),
            ("/renew", json!({ "until": "+10000-01-01T00:00:00Z" }), "until"),
            ("/renew", json!({ "until": "0000-00-00T00:00:00Z" }), "until"),
            ("/renew", json!({ "seconds": 0 }), "seconds"),
            ("/renew", json!({ "seconds": 1, "until": "2030-01-01T00:00:00Z" }), "until"),
            ("/suspend", json!({}), "reason"),
            ("/suspend", json!({ "reason": " " }), "reason"),
            ("/suspend", json!({ "reason": "a\nb" }), "reason"),
            ("/revoke", json!({ "reason": "x".repeat(201) }), "reason"),
            ("/transfer", json!({}), "userId"),
            ("/transfer", json!({ "userId": Uuid::max(), "discordId": "1" }), "userId"),
            ("/transfer", json!({ "discordId": "-1" }), "discordId"),
        ] {
            let method = if command.is_empty() { Method::PATCH } else { Method::POST };
            let answer = client.ask(method, &format!("{path}{command}"), body.clone(), &[]).await;
            let found = (answer.status, answer.code(), answer.body["field"].as_str().unwrap_or_default());
            assert_eq!(found, (422, "VALIDATION_ERROR", field), "{command} {body:.90}: {answer:?}");
        }
        let unknown = client.post(&format!("{path}/transfer"), json!({ "userId": Uuid::max() })).await;
        assert_eq!((unknown.status, unknown.code()), (404, "NOT_FOUND"));
        let endless = client.post(&format!("{path}/renew"), json!({ "seconds": 60 })).await;
        assert_eq!((endless.status, endless.code()), (409, "CONFLICT"), "it does not expire");
        assert_eq!(log_head(t.core()).await, head);
        let renew = format!("{path}/renew");
        assert_eq!(client.post(&renew, json!({ "until": "2030-01-01T00:00:00Z" })).await.status, 200);
        let endless = client.post(&renew, Value::Null).await;
        assert_eq!(endless.code(), "CONFLICT");
        assert!(endless.body["detail"].as_str().unwrap().contains("has no duration"), "{endless:?}");
        t
    });
}
