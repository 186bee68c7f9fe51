//! Administration: which roles may act on which users, and what they see.

use std::{collections::BTreeSet, io::Write, process::Stdio};

use dca_core::{ids::UserId, users::Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    cli::commands::binary,
    support::{
        accounts::{
            Authenticator, auth_state, create_account, delete, events_of_kind, execute, post, sign_in_as, signed_in_as,
        },
        browser::{Browser, PASSWORD, Response},
        fixtures::rows,
        harness::it_unstarted,
    },
};

const ROLES: [Role; 5] = [Role::User, Role::Premium, Role::Moderator, Role::Admin, Role::SuperAdmin];

fn email_of(role: Role) -> String {
    format!("{}@x.example", role.as_str().to_lowercase().replace('_', "-"))
}

async fn send(browser: &Browser, method: &str, path: &str, body: &Value) -> Response {
    browser.ask(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), path, body.clone(), &[]).await
}

/// Every administration operation with its minimum role and a request body. `{id}` is a user or session id.
fn operations(target: UserId) -> Vec<(&'static str, &'static str, Role, Value)> {
    vec![
        ("get", "/admin/users", Role::Moderator, Value::Null),
        ("get", "/admin/users/{id}", Role::Moderator, Value::Null),
        ("get", "/admin/users/{id}/sessions", Role::Moderator, Value::Null),
        ("get", "/admin/roles", Role::Moderator, Value::Null),
        ("patch", "/admin/users/{id}", Role::Admin, json!({ "status": "SUSPENDED" })),
        ("post", "/admin/users/{id}/ban", Role::Admin, json!({ "reason": "spam" })),
        ("post", "/admin/users/{id}/unban", Role::Admin, Value::Null),
        ("delete", "/admin/users/{id}", Role::Admin, Value::Null),
        ("delete", "/admin/users/{id}/sessions", Role::Admin, Value::Null),
        ("delete", "/admin/users/{id}/2fa", Role::Admin, Value::Null),
        ("get", "/admin/sessions", Role::Admin, Value::Null),
        ("post", "/admin/sessions/{id}/revoke", Role::Admin, Value::Null),
        ("get", "/admin/outbox", Role::Admin, Value::Null),
        ("post", "/admin/outbox/{id}/replay", Role::Admin, Value::Null),
        ("post", "/admin/roles/assign", Role::SuperAdmin, json!({ "userId": target.0, "role": "PREMIUM" })),
        ("post", "/admin/roles/revoke", Role::SuperAdmin, json!({ "userId": target.0, "role": "PREMIUM" })),
    ]
}

#[test]
fn each_role_can_call_only_its_operations() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let target = create_account(&t, "target@x.example", Role::User).await;
        let table = operations(target);
        let api = Browser::new(&t).get("/openapi.json").await.body;
        let documented: BTreeSet<(String, String)> = api["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, operations)| {
                operations.as_object().unwrap().iter().map(move |operation| (path, operation))
            })
            .filter(|(_, (_, operation))| operation["tags"] == json!(["administration"]))
            .map(|(path, (method, _))| (method.clone(), path.clone()))
            .collect();
        let listed = table.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
        assert_eq!(documented, listed, "every administration operation needs a row, and every row an operation");

        let mut browsers = vec![(None, Browser::new(&t))];
        for role in ROLES {
            browsers.push((Some(role), signed_in_as(&t, &email_of(role), role).await.0));
        }
        for (method, path, minimum, body) in &table {
            let target_path = path.replace("{id}", &target.to_string());
            for (role, browser) in &browsers {
                let before = auth_state(t.core()).await;
                let response = send(browser, method, &target_path, body).await;
                let context = format!("{method} {path} by {role:?}: {response:?}");
                match role {
                    None => assert_eq!((response.status, response.code()), (401, "NO_TOKEN"), "{context}"),
                    Some(role) if role < minimum => {
                        assert_eq!((response.status, response.code()), (403, "INSUFFICIENT_ROLE"), "{context}");
                    }
                    // A user id matches no session and no delivery.
                    Some(_) => {
                        assert!(matches!(response.status, 200..300) || response.code() == "NOT_FOUND", "{context}");
                        continue;
                    }
                }
                assert_eq!(auth_state(t.core()).await, before, "{context} changed something");
            }
        }
        t
    });
}

#[test]
fn admins_cannot_act_on_users_of_the_same_or_a_higher_role() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (mut browsers, mut ids) = (Vec::new(), Vec::new());
        for role in ROLES {
            let (browser, id) = signed_in_as(&t, &email_of(role), role).await;
            Authenticator::enabled(&t, &browser).await;
            let session = browser.get("/auth/sessions").await.body[0]["id"].as_str().unwrap().to_owned();
            browsers.push((role, browser));
            ids.push((role, id, session));
        }
        let (peer, peer_session) = {
            let (browser, id) = signed_in_as(&t, "peer@x.example", Role::SuperAdmin).await;
            (id, browser.get("/auth/sessions").await.body[0]["id"].as_str().unwrap().to_owned())
        };
        ids.push((Role::SuperAdmin, peer, peer_session));
        let before = auth_state(t.core()).await;
        for (actor, browser) in browsers.iter().filter(|(role, _)| *role >= Role::Admin) {
            for (role, id, session) in ids.iter().filter(|(role, ..)| role >= actor) {
                for (method, path, body) in [
                    ("patch", format!("/admin/users/{id}"), json!({ "status": "BANNED" })),
                    ("post", format!("/admin/users/{id}/ban"), Value::Null),
                    ("post", format!("/admin/users/{id}/unban"), Value::Null),
                    ("delete", format!("/admin/users/{id}"), Value::Null),
                    ("delete", format!("/admin/users/{id}/sessions"), Value::Null),
                    ("delete", format!("/admin/users/{id}/2fa"), Value::Null),
                    ("post", format!("/admin/sessions/{session}/revoke"), Value::Null),
                    ("post", "/admin/roles/assign".to_owned(), json!({ "userId": id.0, "role": "USER" })),
                    ("post", "/admin/roles/revoke".to_owned(), json!({ "userId": id.0, "role": role })),
                ] {
                    let response = send(browser, method, &path, &body).await;
                    let context = format!("{method} {path} by {actor} on {role}: {response:?}");
                    assert_eq!((response.status, response.code()), (403, "INSUFFICIENT_ROLE"), "{context}");
                }
            }
        }
        // A role can be assigned only if it is below the actor's own.
        let root = &browsers.last().unwrap().1;
        let escalation = json!({ "userId": ids[0].1.0, "role": "SUPER_ADMIN" });
        assert_eq!(root.post("/admin/roles/assign", escalation).await.code(), "INSUFFICIENT_ROLE");
        for invalid in ["ROOT", "", "admin", "ADMIN\0", "GUILD_MANAGER"] {
            let response = root.post("/admin/roles/assign", json!({ "userId": ids[0].1.0, "role": invalid })).await;
            assert_eq!((response.status, response.code()), (400, "VALIDATION_ERROR"), "{invalid:?}: {response:?}");
        }
        assert_eq!(auth_state(t.core()).await, before);

        // Lower roles can be changed, and the change takes effect at once.
        let admin = json!({ "userId": ids[0].1.0, "role": "ADMIN" });
        let ana = &browsers[0].1;
        assert_eq!(ana.get("/admin/users").await.status, 403);
        assert_eq!(root.post("/admin/roles/assign", admin.clone()).await.body["role"], "ADMIN");
        assert_eq!(ana.get("/admin/users").await.status, 200);
        assert_eq!(root.post("/admin/roles/revoke", admin).await.body["role"], "USER");
        assert_eq!(ana.get("/admin/users").await.status, 403);
        t
    });
}

#[test]
fn users_cannot_raise_their_own_privileges() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (_, root) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let escalation = json!({
            "name": "Ana Lima", "role": "SUPER_ADMIN", "roles": ["SUPER_ADMIN"], "status": "BANNED", "id": root.0,
            "id_user": root.0, "email": "root@x.example", "email_verified": true, "deletion_at": null, "userId": root.0,
        });
        let response = ana.ask(Method::PATCH, "/me", escalation.clone(), &[]).await;
        assert_eq!((response.status, &response.body["name"]), (200, &json!("Ana Lima")));
        assert_eq!((&response.body["role"], &response.body["email"]), (&json!("USER"), &json!("ana@x.example")));
        let mut signed_up = escalation;
        signed_up["email"] = json!("new@x.example");
        signed_up["password"] = json!(PASSWORD);
        assert_eq!(post(&t, "/auth/signup", signed_up).await.status, 201);
        let sql = "SELECT status, role FROM users WHERE folded_email = 'new@x.example'";
        let created = rows(t.core().db.writer(), sql).await;
        assert_eq!(created, [json!({ "status": "PENDING", "role": "USER" })]);
        // Another user's session is reported like an unknown one, so that the response does not reveal it.
        let theirs = sign_in_as(&t, "root@x.example").await.get("/auth/sessions").await.body[0]["id"].clone();
        let of_another_user = delete(&ana, &format!("/auth/sessions/{}", theirs.as_str().unwrap()), Value::Null).await;
        let unknown = delete(&ana, "/auth/sessions/01900000-0000-7000-8000-000000000000", Value::Null).await;
        assert_eq!((of_another_user.status, of_another_user.body), (404, unknown.body));
        t
    });
}

#[test]
fn guild_manager_sees_only_the_license_holders_of_the_guild() {
    it_unstarted(|mut t| async {
        t.start().await;
        let mut guilds = Vec::new();
        for (name, product) in [("Makers", "Tools"), ("Rivals", "Bricks")] {
            let guild = t.discord.guild(name);
            let (gold, member) = (guild.role("Gold"), guild.join("member"));
            t.wait_for_events(&guild).await;
            t.map_role(&guild, product, gold, 24).await;
            member.grant(gold);
            t.discord.next_dm(&member).await;
            guilds.push((guild.id().to_string(), member.user_id().to_string()));
        }
        let [(guild, member), (rival, _)] = [guilds[0].clone(), guilds[1].clone()];
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        create_account(&t, "ben@x.example", Role::User).await;
        let (here, there) = (format!("/admin/users?guildId={guild}"), format!("/admin/users?guildId={rival}"));
        let manage = json!({ "userId": id.0, "role": "GUILD_MANAGER", "guildId": guild });
        assert_eq!(ana.get(&here).await.status, 403);
        assert_eq!(root.post("/admin/roles/assign", manage.clone()).await.status, 200);
        let listed = ana.get(&here).await;
        assert_eq!((listed.status, &listed.body["pagination"]["total"]), (200, &json!(1)), "{listed:?}");
        assert_eq!(listed.body["users"][0]["discordId"], member);
        let holder = listed.body["users"][0]["id"].as_str().unwrap();
        for (method, path) in [
            ("get", "/admin/users".to_owned()),
            ("get", there),
            ("get", "/admin/users?guildId=902".to_owned()),
            ("get", "/admin/users?search=ben".to_owned()),
            ("get", format!("/admin/users/{holder}")),
            ("get", format!("/admin/users/{holder}/sessions")),
            ("post", format!("/admin/users/{holder}/ban")),
            ("get", "/admin/sessions".to_owned()),
            ("get", "/admin/outbox".to_owned()),
            ("get", "/admin/roles".to_owned()),
        ] {
            let response = send(&ana, method, &path, &Value::Null).await;
            assert_eq!((response.status, response.code()), (403, "INSUFFICIENT_ROLE"), "{method} {path}: {response:?}");
        }
        // Managers see names, and search in nothing else.
        let holders = "UPDATE users SET name = 'Holder', email = 'hidden@y.example', folded_email = 'hidden@y.example' \
                       WHERE registered_at IS NULL";
        execute(t.core(), holders).await;
        for (browser, search, total) in
            [(&ana, "hold", 1), (&ana, "hidden", 0), (&root, "hold", 1), (&root, "hidden", 1)]
        {
            let found = browser.get(&format!("{here}&search={search}")).await;
            assert_eq!(found.body["pagination"]["total"], total, "{search}: {found:?}");
        }
        for (browser, email, second_factor) in
            [(&ana, Value::Null, None), (&root, json!("hidden@y.example"), Some(false))]
        {
            let holder = &browser.get(&here).await.body["users"][0];
            assert_eq!((&holder["name"], &holder["email"]), (&json!("Holder"), &email));
            assert_eq!(holder.get("twoFactorEnabled"), second_factor.map(Value::from).as_ref());
        }
        assert_eq!(root.get("/admin/users?guildId=902").await.status, 404);
        for invalid in ["x", "", "99999999999999999999999", "900%00", "900 OR 1=1"] {
            let response = root.get(&format!("/admin/users?guildId={invalid}")).await;
            assert!(matches!(response.status, 400 | 422), "{invalid}: {response:?}");
        }
        assert_eq!(root.post("/admin/roles/revoke", manage).await.status, 200);
        assert_eq!(ana.get(&here).await.status, 403);
        assert_eq!(
            events_of_kind(t.core(), "user.access_changed").await.len(),
            5,
            "three from the setup, two role changes"
        );
        t
    });
}

#[test]
fn accounts_that_administer_others_without_a_second_factor_are_named_at_start_and_by_doctor() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        create_account(&t, "user@x.example", Role::User).await;
        create_account(&t, "mod@x.example", Role::Moderator).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        Authenticator::enabled(&t, &root).await;
        t.wait_until_idle().await;
        t.stop().await;
        let missing = "second factor: missing for 1 of the accounts that administer others";
        assert!(!t.log.text().contains(missing));
        t.start_with_limits(&[]).await;
        assert!(t.log.text().contains(missing));
        let doctor = binary(&t, &["doctor"], &[("DCA_DISCORD_TOKEN", "")]).output().unwrap();
        let text = String::from_utf8(doctor.stdout).unwrap();
        let line = text.lines().find(|line| line.contains("second factor:")).unwrap_or_else(|| panic!("{text}"));
        assert!(line.ends_with("accounts that administer others without one: mod@x.example (MODERATOR)"), "{line}");
        t
    });
}

#[test]
fn the_outbox_lists_deliveries_by_the_ids_they_refer_to() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let form = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
        assert_eq!(post(&t, "/auth/signup", form).await.status, 201);
        t.wait_until_idle().await;
        let listed = root.get("/admin/outbox?limit=1").await;
        let delivery = &listed.body[0];
        assert_eq!((&delivery["kind"], &delivery["state"]), (&json!("mail"), &json!("sent")), "{listed:?}");
        let members: Vec<&String> = delivery["about"].as_object().unwrap().keys().collect();
        assert_eq!(members, ["kind", "letter", "token", "user"]);
        let replay = |id: &str| format!("/admin/outbox/{id}/replay");
        let sent = root.post(&replay(delivery["id"].as_str().unwrap()), Value::Null).await;
        assert_eq!((sent.status, sent.code()), (409, "CONFLICT"));
        let unknown = root.post(&replay("00000000-0000-7000-8000-000000000000"), Value::Null).await;
        assert_eq!((unknown.status, unknown.code()), (404, "NOT_FOUND"));
        t
    });
}

#[test]
fn ban_ends_sessions_at_once_and_is_reported_only_with_the_right_password() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, root_id) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let token = ana.cookie("rt").unwrap();
        let path = |action: &str| format!("/admin/users/{id}/{action}");
        let long = json!({ "reason": "x".repeat(301) });
        assert_eq!(root.post(&path("ban"), long).await.code(), "VALIDATION_ERROR");
        let banned = root.post(&path("ban"), json!({ "reason": "spam" })).await;
        assert_eq!((banned.status, &banned.body["status"]), (200, &json!("BANNED")), "{banned:?}");
        assert_eq!(ana.get("/me").await.code(), "ACCOUNT_BANNED");
        let response = post(&t, "/auth/refresh", json!({ "refreshToken": token })).await;
        assert_eq!((response.status, response.code()), (401, "INVALID_SESSION"));
        let login = async |password: &str| {
            post(&t, "/auth/login", json!({ "email": "ana@x.example", "password": password })).await
        };
        assert_eq!(login("not this one").await.code(), "INVALID_CREDENTIALS");
        let correct = login(PASSWORD).await;
        assert_eq!((correct.status, correct.code()), (403, "ACCOUNT_BANNED"));
        assert!(!correct.text.contains("spam"), "the reason is for admins only");

        assert_eq!(root.post(&path("unban"), Value::Null).await.body["status"], "ACTIVE");
        assert_eq!(ana.get("/me").await.code(), "INVALID_SESSION", "revoked sessions stay revoked");
        assert_eq!(login(PASSWORD).await.status, 200);
        let suspend = json!({ "status": "SUSPENDED", "role": "ADMIN" });
        let response = root.ask(Method::PATCH, &format!("/admin/users/{id}"), suspend, &[]).await;
        assert_eq!((&response.body["status"], &response.body["role"]), (&json!("SUSPENDED"), &json!("USER")));
        assert_eq!(login(PASSWORD).await.code(), "ACCOUNT_SUSPENDED");
        for invalid in [json!("PENDING"), json!("GONE"), json!("active"), json!(1), Value::Null] {
            let response =
                root.ask(Method::PATCH, &format!("/admin/users/{id}"), json!({ "status": invalid }), &[]).await;
            assert_eq!((response.status, response.code()), (400, "VALIDATION_ERROR"), "{invalid}: {response:?}");
        }
        let changes = events_of_kind(t.core(), "user.status_changed").await;
        assert_eq!(changes.len(), 3, "{changes:?}");
        assert!(changes.iter().all(|change| change["actor"] == format!("user:{root_id}")), "{changes:?}");
        t
    });
}

#[test]
fn activating_an_account_does_not_verify_its_email() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let form = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
        let id = post(&t, "/auth/signup", form).await.body["user_id"].as_str().unwrap().to_owned();
        assert_eq!(root.post(&format!("/admin/users/{id}/ban"), Value::Null).await.body["status"], "BANNED");
        assert_eq!(root.post(&format!("/admin/users/{id}/unban"), Value::Null).await.body["status"], "PENDING");
        let active = json!({ "status": "ACTIVE" });
        let response = root.ask(Method::PATCH, &format!("/admin/users/{id}"), active, &[]).await;
        assert_eq!(response.body["status"], "PENDING", "{response:?}");
        let response = post(&t, "/auth/login", json!({ "email": "new@x.example", "password": PASSWORD })).await;
        assert_eq!((response.status, response.code()), (403, "EMAIL_NOT_VERIFIED"));
        t
    });
}

#[test]
fn user_list_validates_its_parameters_and_searches_literally() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        for (email, name) in
            [("a_b@x.example", "50% off"), ("acb@x.example", r"back\slash"), ("o'neil@x.example", "O'Neil \"Zed\"")]
        {
            let id = create_account(&t, &email.replace('\'', ""), Role::User).await;
            let name = name.replace('\'', "''");
            let (email, id) = (email.replace('\'', "''"), id.to_string());
            let old = email.replace("''", "");
            assert!(!id.is_empty());
            execute(
                t.core(),
                &format!("UPDATE users SET name = '{name}', email = '{email}', folded_email = '{email}' WHERE folded_email = '{old}'"),
            )
            .await;
        }
        let total = async |query: &str| {
            let response = root.get(&format!("/admin/users?{query}")).await;
            assert_eq!(response.status, 200, "{query}: {response:?}");
            response.body["pagination"]["total"].as_u64().unwrap()
        };
        for (search, count) in [
            ("x.example", 4),
            ("ROOT@", 1),
            ("%25", 1),
            ("_", 1),
            ("a_b", 1),
            ("%5C", 1),
            ("o'neil", 1),
            ("%22zed%22", 1),
            ("'%20OR%20'1'='1", 0),
            ("%25%25", 0),
            ("", 4),
            ("50%25%20OFF", 1),
        ] {
            assert_eq!(total(&format!("search={search}")).await, count, "{search}");
        }
        assert_eq!((total("role=SUPER_ADMIN").await, total("status=BANNED").await), (1, 0));
        for query in [
            "page=0",
            "page=-1",
            "page=x",
            "page=1000001",
            "page=18446744073709551616",
            "limit=0",
            "limit=101",
            "limit=1e2",
            "search=%00",
            "search=a%0Ab",
            "role=ROOT",
            "status=",
            "page=1&page=2",
        ] {
            let response = root.get(&format!("/admin/users?{query}")).await;
            assert!(matches!(response.status, 400), "{query}: {response:?}");
            assert!(!response.code().is_empty());
        }
        let page = root.get("/admin/users?page=2&limit=3").await.body;
        let listed = page["users"].as_array().unwrap().len();
        assert_eq!(
            (listed, &page["pagination"]["hasNext"], &page["pagination"]["pages"]),
            (1, &json!(false), &json!(2))
        );
        assert_eq!(root.get("/admin/users?page=1000000&limit=100").await.body["users"], json!([]));
        for id in ["x", "1", "01900000-0000-7000-8000-000000000000", "%00", "..%2f.."] {
            let response = root.get(&format!("/admin/users/{id}")).await;
            assert_eq!((response.status, response.code()), (404, "NOT_FOUND"), "{id}: {response:?}");
        }
        t
    });
}

#[test]
fn admin_create_makes_the_first_admin() {
    it_unstarted(|mut t| async {
        let run = |args: &[&str], input: Option<&str>| {
            let mut command = binary(&t, args, &[("DCA_DISCORD_TOKEN", "")]);
            let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
            let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
                stdin.write_all(input.as_bytes()).unwrap();
            }
            let output = child.wait_with_output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
        };
        let create = |email: &'static str| ["admin", "create", "--email", email, "--password-stdin"];
        for (email, input, reason) in [
            ("ana@x.example", "password\n", "too easy to guess"),
            ("ana@x.example", "short7!", "8 to 128 characters"),
            ("ana@x.example", "", "8 to 128 characters"),
            ("ana", "plow-Ketchup-41 sundial", "email must be an email"),
        ] {
            let (code, out, err) = run(&create(email), Some(input));
            assert_eq!((code, out.as_str()), (1, ""), "{input:?}: {err}");
            assert!(err.contains(reason) && (input.is_empty() || !err.contains(input)), "{input:?}: {err}");
        }
        let (code, out, err) = run(&create("ana@x.example"), Some(&format!("{PASSWORD}\r\n")));
        assert_eq!(code, 0, "{err}");
        assert!(out.contains("SUPER_ADMIN") && !out.contains(PASSWORD) && !err.contains(PASSWORD), "{out} {err}");
        let (code, out, err) = run(&["admin", "create", "--email", "ben@x.example"], None);
        assert_eq!(code, 0, "{err}");
        let generated = out.lines().find_map(|line| line.strip_prefix("password, not shown again: ")).unwrap();
        assert!(generated.len() >= 24 && !err.contains(generated), "{out}");
        t.start_with_limits(&[]).await;
        let ana = sign_in_as(&t, "ana@x.example").await;
        assert_eq!(ana.get("/admin/users").await.status, 200);
        let ben = post(&t, "/auth/login", json!({ "email": "ben@x.example", "password": generated })).await;
        assert_eq!((ben.status, &ben.body["user"]["role"]), (200, &json!("SUPER_ADMIN")));
        let changes = events_of_kind(t.core(), "user.access_changed").await;
        assert!(changes.len() == 2 && changes.iter().all(|event| event["actor"] == "operator"), "{changes:?}");
        t
    });
}
