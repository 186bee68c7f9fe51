//! What is asked of accounts, line by line, and the tests that prove it: OWASP ASVS 5.0 (the numbers), the best
//! current practices for OAuth (OA), JWTs (JW), cookies (CK) and problems (PD), and ten incidents of other systems
//! (T). A line that is left out says why. Beside it, what holds for every account route: bad input, methods that
//! only read, and a limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use dca_core::accounts::Role;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    account_fixtures::{auth_state, post, signed_in_as},
    browser::{Browser, PASSWORD},
    fixtures::{Answer, Request, log_head},
    harness::it_unstarted,
};

/// Every line there is.
const LINES: &str = "
    1.2.1 1.2.4 1.3.6 1.3.7 1.3.11 1.5.2 2.2.1 2.2.2 2.3.1 2.3.3 2.3.4 2.4.1
    3.2.1 3.3.1 3.3.2 3.3.3 3.3.4 3.4.1 3.4.2 3.4.3 3.4.4 3.4.5 3.4.6 3.5.1 3.5.2 3.5.3
    4.1.1 4.1.2 4.1.3 4.2.1 4.4.1 4.4.2 4.4.3 4.4.4 5.2.1 5.3.2 5.4.1 5.4.2
    6.1.1 6.2.1 6.2.2 6.2.3 6.2.4 6.2.5 6.2.8 6.2.9 6.2.10 6.2.11 6.2.12 6.3.1 6.3.2 6.3.3 6.3.4
    6.4.1 6.4.2 6.4.3 6.4.4 6.5.1 6.5.2 6.5.3 6.5.4 6.5.5 6.6.2 6.6.3 6.8.1 6.8.2
    7.1.1 7.1.2 7.1.3 7.2.1 7.2.3 7.2.4 7.3.1 7.3.2 7.4.1 7.4.2 7.4.3 7.4.5 7.5.1 7.5.2 7.6.1 7.6.2
    8.2.1 8.2.2 8.2.3 8.3.1 8.4.1 9.1.1 9.1.2 9.1.3 9.2.1 9.2.2 9.2.3 9.2.4
    10.1.1 10.1.2 10.2.1 10.2.2 10.4 10.5.1 10.5.2 10.5.3 10.5.4
    11.1.1 11.1.2 11.2.2 11.3.1 11.3.2 11.3.3 11.4.1 11.4.2 11.5.1 11.6.1 12.1.1 12.3.1 12.3.2
    13.2.1 13.2.2 13.2.3 13.2.4 13.3.1 13.4.2 13.4.4 13.4.5 14.2.1 14.3.1 14.3.2
    15.2.2 15.3.1 15.3.2 15.3.3 15.3.4 15.3.7
    16.2.1 16.2.2 16.2.5 16.3.1 16.3.2 16.3.3 16.3.4 16.4.1 16.4.2 16.5.1 16.5.2 16.5.3
    OA-1 OA-2 OA-3 OA-4 OA-5 OA-6 OA-7 OA-8 OA-9 OA-10 OA-11 OA-12 OA-13 OA-14
    JW-1 JW-2 JW-3 JW-4 JW-5 JW-6 JW-7 JW-8 JW-9 JW-10 JW-11
    CK-1 CK-2 CK-3 CK-4 CK-5 CK-6 CK-7 PD-1 PD-2 PD-3 PD-4 PD-5 PD-6 PD-7
    T-01 T-02 T-03 T-04 T-05 T-06 T-07 T-08 T-09 T-10";

/// Lines, and the tests that prove them: in this folder by their module, elsewhere by their file.
const PROVED: &[(&str, &str)] = &[
    ("1.2.1", "pages::nothing_that_comes_from_outside_becomes_markup"),
    ("1.2.1", "src/outbound/tests::the_page_of_a_letter_has_a_button_and_escapes_everything"),
    ("1.2.4 1.3.11", "administration::a_list_has_its_edges_and_a_search_is_text"),
    ("1.3.11", "src/outbound/tests::a_name_makes_neither_a_header_nor_a_paragraph_nor_markup"),
    ("2.2.1 PD-7", "asvs::an_odd_text_is_refused_for_what_it_says_or_does_no_harm"),
    ("2.2.1 2.2.2 15.3.7 PD-1 PD-4 PD-7 5.2.1", "asvs::bad_input_is_refused_by_every_account_route"),
    ("2.3.3", "sign_in::an_account_and_its_event_are_one"),
    ("2.4.1 6.1.1 6.3.1 T-01", "brute_force::of_two_hundred_guesses_at_once_ten_are_tried"),
    ("2.4.1", "brute_force::an_address_gets_five_letters_an_hour_and_nobody_is_told"),
    ("6.1.1 7.1.1 7.1.2 7.1.3", "src/config/tests::env_example_is_the_reference"),
    ("6.1.1", "brute_force::strangers_cannot_lock_an_owner_out"),
    ("6.3.1", "brute_force::a_network_has_its_tries_and_a_success_gives_back_no_more_than_its_own"),
    ("6.3.1", "brute_force::instances_count_together"),
    (
        "3.3.1 3.3.2 3.3.3 3.3.4 CK-1 CK-2",
        "src/http/cookies::the_refresh_cookie_follows_the_scheme_and_what_is_configured",
    ),
    ("CK-4 CK-5", "accounts::the_refresh_cookie_is_cleared_as_it_was_set"),
    ("CK-3 CK-4 CK-7 14.3.1", "asvs::cookies_are_small_end_and_come_with_a_sign_in_alone"),
    ("CK-6", "tokens::a_cookie_that_came_twice_is_no_cookie"),
    ("3.4.1", "aliases::every_answer_says_https_only_where_that_is_how_we_are_reached"),
    ("3.4.2", "aliases::pages_of_the_listed_origins_may_read_answers_and_no_others"),
    ("3.2.1 3.4.3 3.4.4 3.4.5 3.4.6 OA-14", "ops::every_answer_carries_the_safe_headers"),
    ("3.5.1 3.5.2", "aliases::a_cookie_counts_only_with_a_page_that_may_send_it"),
    ("3.5.2", "asvs::bad_input_is_refused_by_every_account_route"),
    ("3.5.3", "asvs::whoever_only_reads_changes_nothing"),
    ("3.5.3", "pages::opening_a_link_changes_nothing_and_its_form_proves_the_address"),
    ("4.1.1 PD-6 13.4.4 13.4.2 16.5.1", "asvs::an_answer_says_what_it_is"),
    ("4.1.3 15.3.4", "src/http/extract::only_trusted_proxies_are_believed"),
    ("4.1.3 15.3.4", "validate::forwarded_addresses_of_a_stranger_are_not_believed"),
    ("6.2.1 6.2.4 6.2.11", "brute_force::what_a_guesser_tries_first_is_refused_wherever_a_password_is_chosen"),
    ("6.2.4 6.2.11", "core/src/crypto/password::what_a_guesser_tries_first_is_no_password"),
    ("6.2.2 6.2.3 6.2.5 6.2.8 6.2.9", "brute_force::a_password_is_taken_to_the_letter"),
    ("6.2.3 7.5.1 T-06", "brute_force::whoever_asks_for_the_password_again_counts_with_the_sign_in"),
    ("6.2.10", "tokens::a_session_ends_when_it_rests_too_long_and_after_ninety_days"),
    ("6.3.2", "administration::the_first_admin_is_made_at_the_command_line"),
    ("6.3.3", "second_factor::an_admin_who_needs_one_acts_on_nobody_without_it"),
    ("6.3.4 6.4.3 T-08", "second_factor::a_new_password_and_another_way_in_do_not_go_around_it"),
    ("6.3.4", "sign_in::a_provider_does_not_stand_for_the_second_factor"),
    ("6.4.1", "tokens::a_one_time_token_ends_with_its_time"),
    ("6.4.1 T-07", "accounts::a_token_does_what_its_letter_says_and_lets_no_suspended_person_in"),
    ("6.4.2", "brute_force::an_answer_does_not_tell_who_has_an_account"),
    ("6.5.1", "second_factor::of_many_at_once_one_uses_a_code"),
    ("6.5.1 6.5.5 T-09", "second_factor::a_wrong_code_is_refused_and_a_right_one_works_once"),
    ("6.5.2 6.5.4", "second_factor::neither_secret_nor_recovery_code_rests_readable"),
    ("6.5.1", "second_factor::a_recovery_code_works_once_however_it_is_typed"),
    ("6.5.3", "architecture::time_and_randomness_have_one_source_each"),
    ("6.6.2 OA-7 OA-3 10.1.2 10.2.1 10.5.1", "sign_in::a_return_that_does_not_fit_its_beginning_signs_nobody_in"),
    ("6.6.3 T-01", "brute_force::of_a_hundred_codes_at_once_ten_are_tried"),
    ("6.8.1 10.5.2 T-04", "sign_in::an_address_links_nothing"),
    ("T-04", "sign_in::an_address_that_a_provider_proved_ends_claims_and_one_it_did_not_ends_none"),
    ("T-04", "accounts::the_first_proof_of_an_address_ends_what_others_claimed"),
    ("T-04", "tokens::a_link_that_was_begun_ends_with_the_session_that_began_it"),
    ("7.2.1 7.4.1", "tokens::what_is_revoked_is_revoked_on_every_instance_at_once"),
    ("7.2.3 9.1.1 9.1.2 9.1.3 9.2.1 9.2.2 9.2.3 9.2.4", "tokens::an_access_token_cannot_be_made_up"),
    ("JW-1 JW-3 JW-4 JW-5 JW-6 JW-7 JW-9 16.3.3", "tokens::an_access_token_cannot_be_made_up"),
    ("JW-11", "tokens::an_access_token_lives_for_fifteen_minutes"),
    ("JW-2", "src/config/tests::a_secret_everybody_knows_is_refused"),
    ("9.1.1", "tokens::a_token_of_another_installation_is_none"),
    ("7.2.4", "tokens::fifty_refreshes_at_once_have_one_successor"),
    ("7.3.1", "tokens::a_token_that_rested_for_its_whole_life_is_over"),
    ("7.3.2", "tokens::a_session_ends_when_it_rests_too_long_and_after_ninety_days"),
    ("7.4.1", "tokens::one_proof_of_a_session_is_enough_to_end_it"),
    ("7.4.2", "tokens::nobody_who_is_kept_out_refreshes"),
    ("7.4.2 7.4.5 16.3.1", "administration::a_ban_ends_sessions_at_once_and_is_told_to_who_knows_the_password"),
    ("7.4.2", "erasure::a_deletion_is_confirmed_waits_and_is_taken_back_by_a_sign_in"),
    ("7.4.3", "second_factor::setting_it_up_ends_every_other_session"),
    ("6.4.4 7.5.1", "second_factor::taking_it_away_needs_password_and_code"),
    ("7.5.2", "accounts::logout_all_ends_the_sessions_of_who_asks_and_of_nobody_else"),
    ("7.6.1 7.6.2", "sign_in::who_may_not_enter_does_not_enter_through_a_provider"),
    ("8.2.1 8.3.1", "administration::each_role_reaches_its_operations_and_no_more"),
    ("8.2.1", "administration::whoever_acts_outranks_whom_they_act_on"),
    ("8.2.2 8.2.3 15.3.1 15.3.3", "administration::nobody_makes_themselves_more_than_they_are"),
    ("15.3.3", "accounts::only_documented_fields_of_a_body_count"),
    ("8.4.1", "administration::a_guilds_manager_sees_who_holds_something_there_and_nothing_else"),
    (
        "10.1.1 14.2.1 OA-11 OA-9",
        "sign_in::the_frontend_gets_the_browser_back_with_a_cookie_and_no_token_in_the_address",
    ),
    ("OA-1 OA-2 OA-4 OA-12 10.2.2 OA-6", "sign_in::a_provider_signs_somebody_in_by_every_way_there_is"),
    ("OA-8 T-05", "tokens::a_token_older_than_the_last_is_stolen_even_within_ten_seconds"),
    ("OA-8", "tokens::a_retry_within_ten_seconds_is_answered_alike_and_later_it_ends_every_session"),
    ("OA-13 11.3.2", "sign_in::what_a_provider_gave_rests_sealed"),
    ("11.3.1 11.3.2 11.3.3", "core/src/crypto/seal::a_ciphertext_opens_only_where_it_was_sealed"),
    ("11.1.1 11.1.2", "tokens::each_kind_of_token_opens_its_own_door_and_no_other"),
    ("11.2.2", "brute_force::a_hash_of_an_earlier_system_is_understood_once_and_replaced"),
    ("11.4.1 11.4.2", "core/src/crypto/password::a_hash_is_compared_whoever_made_it_and_within_bounds"),
    ("13.3.1", "src/config/tests::secrets_stay_out_of_debug_and_come_from_files"),
    ("14.3.2", "ops::every_answer_carries_the_safe_headers"),
    ("16.2.5", "tokens::nothing_that_opens_a_door_rests_in_the_database_or_the_log"),
    ("16.2.1 16.2.2 PD-3 16.4.1", "asvs::an_answer_is_found_in_the_log_and_writes_no_line_of_its_own"),
    ("16.3.1", "erasure::an_export_holds_everything_but_secrets"),
    ("16.5.3", "ops::probes_tell_what_is_away_and_the_rest_keeps_answering"),
    ("PD-2", "validate::a_bad_request_is_refused_clearly_and_leaves_no_trace"),
    ("PD-5", "asvs::an_address_asks_so_often_and_then_waits"),
    ("T-02", "pages::a_mailed_link_leads_where_the_settings_say"),
    ("T-10", "src/config/tests::a_secret_everybody_knows_is_refused"),
];

/// Lines that nothing here proves, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("1.3.6 15.3.2", "no address that a browser gives is ever called"),
    ("1.3.7", "templates of letters are compiled in; nobody edits them"),
    ("1.5.2", "unknown members are ignored: clients of the earlier systems send more than is documented"),
    ("2.3.1 2.3.4", "licenses and devices; not of accounts"),
    ("4.1.2", "TLS ends here or at a proxy, as the operator chooses; plain http is for one machine"),
    ("4.2.1", "the HTTP library's"),
    ("4.4.1 4.4.2 4.4.3 4.4.4", "there is no socket yet"),
    ("5.3.2 5.4.1 5.4.2", "no file is served but the export, whose name is fixed"),
    ("6.2.12", "no list of breached passwords is embedded; the estimate stands for the commonest"),
    ("6.8.2 10.5.3 10.5.4", "no assertion is read: who somebody is, is asked at the provider with the code"),
    ("10.4 OA-5", "this is no authorization server for others"),
    ("11.5.1", "of license keys, and a recorded exception there"),
    ("11.6.1", "Ed25519 keys are random data of the keyring"),
    ("12.1.1 12.3.1 12.3.2", "of the TLS library, and tested with letters"),
    ("13.2.1 13.2.2 13.2.3 13.2.4", "how the operator runs it"),
    ("13.4.5", "the description is public on purpose; metrics have a test of their own"),
    ("15.2.2", "hashes have turns; measured by the bench of sign-ins"),
    ("16.3.2", "a refused request is in the access log with its status; the one log holds what happened"),
    ("16.3.4", "every failure is one error line, which the harness counts in every test"),
    ("16.4.2", "rows of the log are never updated; who owns the database can"),
    ("16.5.2", "providers and mail have time limits, and no breaker"),
    ("JW-8", "our tokens say no beginning"),
    ("JW-10", "the signing key is not rotated yet"),
    ("OA-10", "no credentials are forwarded; who comes back is sent on with 302, and 303 from a form"),
    ("T-03", "no route makes an API key"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_line_is_proved_by_a_test_that_exists_or_says_why_not() {
    let ids = |text: &'static str| text.split_whitespace();
    let all: BTreeSet<&str> = ids(LINES).collect();
    let proved: BTreeSet<&str> = PROVED.iter().flat_map(|(lines, _)| ids(lines)).collect();
    let left_out: BTreeSet<&str> = LEFT_OUT.iter().flat_map(|(lines, _)| ids(lines)).collect();
    assert_eq!(proved.intersection(&left_out).collect::<Vec<_>>(), [&""; 0], "proved and left out");
    let named = proved.union(&left_out).copied().collect();
    assert_eq!(all, named, "a line without a row, or a row without its line");
    let mut sources: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (lines, test) in PROVED {
        let (module, name) = test.rsplit_once("::").unwrap();
        let file = if module.contains('/') { format!("{module}.rs") } else { format!("tests/it/{module}.rs") };
        let path = root().join(file);
        let source = sources.entry(path.clone()).or_insert_with(|| std::fs::read_to_string(&path).unwrap_or_default());
        let mut lines_of_source = source.lines().map(str::trim);
        let begins = format!("fn {name}()");
        let is_there = lines_of_source.any(|line| line == "#[test]")
            && source
                .lines()
                .zip(source.lines().skip(1))
                .any(|(attribute, line)| attribute.trim() == "#[test]" && line.trim().starts_with(&begins));
        assert!(is_there, "{lines}: there is no test {test}");
    }
}

/// A route that takes a body: a good one, whose members are spoiled one by one.
fn bodies() -> Vec<(&'static str, &'static str, Value)> {
    let user = "01900000-0000-7000-8000-000000000000";
    let sign_up = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
    let login = json!({ "email": "who@x.example", "password": PASSWORD, "twoFactorCode": "000000" });
    let reset = json!({ "token": "x", "password": "another-Ketchup-42" });
    let returned = json!({ "code": "x", "state": "x", "error": "x" });
    let confirm = json!({ "password": "x", "twoFactorCode": "000000" });
    let role = json!({ "userId": user, "role": "PREMIUM", "guildId": "900" });
    vec![
        ("POST", "/auth/signup", sign_up.clone()),
        ("POST", "/auth/login", login.clone()),
        ("POST", "/auth/2fa/verify", json!({ "code": "000000", "twoFactorToken": "x" })),
        ("POST", "/auth/verify-email", json!({ "token": "x" })),
        ("POST", "/auth/resend-verification", json!({ "email": "who" })),
        ("POST", "/auth/refresh", json!({ "refreshToken": "x" })),
        ("POST", "/auth/logout", json!({ "refreshToken": "x" })),
        ("POST", "/auth/reset-password-request", json!({ "email": "who" })),
        ("POST", "/auth/reset-password", reset.clone()),
        ("POST", "/auth/change-password", json!({ "currentPassword": "x", "newPassword": "another-Ketchup-42" })),
        ("POST", "/auth/2fa/setup", confirm.clone()),
        ("POST", "/auth/2fa/enable", json!({ "code": "000000" })),
        ("POST", "/auth/2fa/disable", confirm.clone()),
        ("POST", "/auth/2fa/recovery-codes", json!({ "code": "000000" })),
        ("POST", "/auth/google/callback", returned.clone()),
        ("POST", "/auth/google/link", returned),
        ("POST", "/admin/users/{id}/ban", json!({ "reason": "x" })),
        ("POST", "/admin/sessions/{id}/revoke", json!({ "reason": "x" })),
        ("POST", "/admin/roles/assign", role.clone()),
        ("POST", "/admin/roles/revoke", role),
        ("PATCH", "/me", json!({ "name": "Ana", "locale": "en" })),
        ("PATCH", "/admin/users/{id}", json!({ "status": "BANNED", "reason": "x" })),
        ("DELETE", "/me", confirm.clone()),
        ("POST", "/api/auth/register", sign_up),
        ("POST", "/api/auth/login", login),
        ("POST", "/api/auth/password/reset", reset),
        ("POST", "/api/auth/2fa/disable", confirm),
    ]
}

/// What no route takes: what is wrong with it, its type, its bytes and the status.
fn spoiled(good: &Value) -> Vec<(String, &'static str, Vec<u8>, u16)> {
    const JSON: &str = "application/json";
    let text = good.to_string();
    let mut all: Vec<(String, &str, Vec<u8>, u16)> = [
        ("half an object", text.as_bytes()[..text.len() - 1].to_vec()),
        ("an array", b"[\"s3cr3t\"]".into()),
        ("a string", b"\"s3cr3t\"".into()),
        ("null", b"null".into()),
        ("something behind it", [text.as_bytes(), b" {}"].concat()),
        ("nine thousand brackets", b"[".repeat(9_000)),
    ]
    .map(|(what, body)| (what.to_owned(), JSON, body, 400))
    .into();
    all.push(("a MiB".to_owned(), JSON, format!("{{\"pad\":\"{}\"}}", "x".repeat(1024 * 1024)).into(), 413));
    for other in ["text/plain", "application/x-www-form-urlencoded", ""] {
        all.push((format!("as {other:?}"), other, text.clone().into(), 415));
    }
    for (name, value) in good.as_object().unwrap() {
        let member = format!("\"{name}\":{value}");
        let (begin, end) = text.split_once(&member).unwrap();
        let with = |bytes: &[u8]| [begin.as_bytes(), b"\"", name.as_bytes(), b"\":", bytes, end.as_bytes()].concat();
        let wrong: [&[u8]; 9] = [
            b"true",
            b"4242424242",
            b"-1e400",
            b"[]",
            b"{}",
            b"[\"s3cr3t\"]",
            b"\"\\ud800\"",
            b"\"\0\"",
            b"\"\xff\xfe\"",
        ];
        let wrong = wrong.map(|bytes| (format!("{name} is {:?}", String::from_utf8_lossy(bytes)), with(bytes)));
        let twice = (format!("{name} twice"), with(format!("{value},{member}").as_bytes()));
        all.extend(wrong.into_iter().chain([twice]).map(|(what, body)| (what, JSON, body, 400)));
    }
    all
}

#[test]
fn bad_input_is_refused_by_every_account_route() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_NETWORK", "60000"), ("DCA_LETTERS_PER_NETWORK", "60000")]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::SuperAdmin).await;
        // Every route that takes a body is in the table.
        let api = Browser::new(&t).get("/openapi.json").await.body;
        let known: BTreeSet<(String, String)> = bodies()
            .iter()
            .map(|(method, path, _)| (method.to_lowercase(), path.replace("/google", "/{provider}")))
            .collect();
        for (path, operations) in api["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let is_ours = ["accounts", "administration"].iter().any(|tag| operation["tags"] == json!([tag]));
                let takes = is_ours && !operation["requestBody"].is_null();
                assert!(!takes || known.contains(&(method.clone(), path.clone())), "{method} {path} has no row");
            }
        }
        let bearer = format!("Bearer {}", ana.access().unwrap());
        let (head, before) = (log_head(t.core()).await, auth_state(t.core()).await);
        let ask_all = async |method: &str, path: &str, good: &Value| {
            let at = path.replace("{id}", &id.to_string());
            let request = Request::new(&format!("{method} {at}")).with("Authorization", &bearer);
            for (what, content_type, body, status) in spoiled(good) {
                let what = format!("{method} {path}, {what}");
                let request = request.clone().with("Content-Type", content_type).body(body);
                let answer = request.ask(t.addr()).await.unwrap_or_else(|| panic!("{what}: no answer"));
                assert_refused(&what, &answer);
                assert_eq!(answer.status, status, "{what}: {answer:?}");
            }
        };
        // Whoever wants to leave leaves, whatever their program sends.
        let routes: Vec<_> = bodies().into_iter().filter(|(_, path, _)| *path != "/auth/logout").collect();
        join_all(routes.iter().map(|(method, path, good)| ask_all(method, path, good))).await;
        assert_eq!((log_head(t.core()).await, auth_state(t.core()).await), (head, before), "something was written");

        t
    });
}

#[test]
fn an_odd_text_is_refused_for_what_it_says_or_does_no_harm() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_NETWORK", "60000"), ("DCA_LETTERS_PER_NETWORK", "60000")]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::SuperAdmin).await;
        for (method, path, good) in bodies() {
            if path == "/me" || path.starts_with("/api/") || path.ends_with("/revoke") || path.ends_with("/ban") {
                continue;
            }
            for name in good.as_object().unwrap().keys() {
                let long = "x".repeat(15_000);
                for odd in ["", "\0", "\u{202e}\u{feff}", "' OR '1'='1", "x\r\nBcc: x", &long] {
                    let mut body = good.clone();
                    body[name] = json!(odd);
                    let at = path.replace("{id}", &id.to_string());
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    let response = ana.ask(method.clone(), &at, body, &[]).await;
                    // Everybody may sign up, sign out and ask for a letter, with odd words too.
                    let free = ["/auth/signup", "/api/auth/register", "/auth/logout", "/auth/reset-password-request"];
                    let accepted = matches!(response.status, 200 | 201) && free.contains(&path);
                    let refused = matches!(response.status, 400..500) && !response.code().is_empty();
                    assert!(refused || accepted, "{method} {path}, {name} is {odd:?}: {response:?}");
                    if path == "/auth/logout" || response.status == 401 && ana.get("/me").await.status == 401 {
                        ana.set_access(None);
                        ana.sign_in("ana@x.example").await;
                    }
                }
            }
        }
        t
    });
}

fn assert_refused(what: &str, answer: &Answer) {
    let problem = answer.json();
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    assert_eq!(problem["status"], answer.status, "{what}");
    let code = problem["code"].as_str().unwrap_or_default();
    assert_eq!(problem["type"], format!("urn:dca-auth:{code}"), "{what}: {answer:?}");
    assert!(!answer.body.contains("s3cr3t") && !answer.body.contains("4242424242"), "{what} is repeated: {answer:?}");
}

#[test]
fn whoever_only_reads_changes_nothing() {
    it_unstarted(|mut t| async {
        let google = t.with_google().await;
        t.start_with_limits(&[]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::SuperAdmin).await;
        let api = ana.get("/openapi.json").await.body;
        let (head, before) = (log_head(t.core()).await, auth_state(t.core()).await);
        let mut asked = 0;
        for (path, operations) in api["paths"].as_object().unwrap() {
            // An export is noted, and a sign-in that begins has a state.
            if operations["get"].is_null() || path == "/me/export" || path == "/auth/{provider}" {
                continue;
            }
            let at = path.replace("{id}", &id.to_string()).replace("{provider}", "google");
            for method in [Method::GET, Method::HEAD] {
                let response = ana.ask(method.clone(), &at, Value::Null, &[]).await;
                assert!(response.status < 500, "{method} {path}: {response:?}");
                assert!(method == Method::GET || response.text.is_empty(), "{method} {path} has a body");
                asked += 1;
            }
        }
        assert!(asked > 20, "{asked}");
        assert_eq!((log_head(t.core()).await, auth_state(t.core()).await), (head, before));
        google.finish();
        t
    });
}

#[test]
fn an_answer_says_what_it_is() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        for (path, content_type) in [
            ("/me", "application/json"),
            ("/auth/sessions", "application/json"),
            ("/verify?token=x", "text/html; charset=utf-8"),
            ("/pages.css", "text/css; charset=utf-8"),
            ("/auth/nothing", "application/problem+json"),
            ("/auth/login", "application/problem+json"),
        ] {
            let response = ana.get(path).await;
            assert_eq!(response.header("content-type").to_lowercase(), content_type, "{path}");
            let head = ana.ask(Method::HEAD, path, Value::Null, &[]).await;
            assert_eq!((head.status, head.text.as_str()), (response.status, ""), "HEAD {path}");
        }
        for method in ["TRACE", "FROB", "PUT"] {
            let answer = Request::new(&format!("{method} /auth/login")).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (405, &json!("METHOD_NOT_ALLOWED")), "{method}");
        }
        for path in ["/.env", "/debug", "/auth/../me", "/auth/login/", "//me", "/%2e%2e/me"] {
            let response = Browser::new(&t).get(path).await;
            assert!(matches!(response.status, 401 | 404 | 405), "{path}: {response:?}");
            assert!(!response.text.contains("panicked") && !response.text.contains(".rs"), "{path}: {response:?}");
        }
        t
    });
}

#[test]
fn cookies_are_small_end_and_come_with_a_sign_in_alone() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let response = ana.sign_in("ana@x.example").await;
        let cookies = response.cookies();
        assert_eq!(cookies.len(), 3, "{cookies:?}");
        for cookie in &cookies {
            assert!(cookie.len() <= 4_096 && cookie.contains("SameSite=Lax"), "{cookie}");
            assert_eq!(cookie.contains("HttpOnly"), !cookie.starts_with("csrf_token="), "{cookie}");
            let life: i64 = cookie.split("Max-Age=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
            assert!((1..=400 * 86_400).contains(&life), "{cookie}");
        }
        for path in ["/me", "/auth/me", "/auth/sessions", "/auth/check", "/me/export", "/.well-known/jwks.json"] {
            assert!(ana.get(path).await.cookies().is_empty(), "{path}");
        }
        let by_key =
            ana.ask(Method::POST, "/licenses/validate", json!({ "licenseKey": "x" }), &[("x-api-key", "x")]).await;
        assert!(by_key.cookies().is_empty());
        let refused = post(&t, "/auth/login", json!({ "email": "ana@x.example", "password": "not this one" })).await;
        assert!(refused.cookies().is_empty());
        let out = ana.post("/auth/logout", Value::Null).await;
        assert_eq!(out.header("clear-site-data"), "\"cache\"");
        t
    });
}

#[test]
fn an_answer_is_found_in_the_log_and_writes_no_line_of_its_own() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let response = ana.get("/auth/sessions/x").await;
        let id = response.header("x-request-id").to_owned();
        let told = t.log.text();
        let lines: Vec<_> = told.lines().filter(|line| line.contains(&id)).collect();
        assert!(lines.len() == 1 && lines[0].contains("status=4"), "{lines:?}");
        let forged = "x\u{1b}[31m 2026-03-01T12:00:00Z  INFO forged";
        for name in ["Ana\nINFO forged", "Ana\r\nforged", "Ana\u{85}forged", "Ana\0forged"] {
            let response = ana.ask(Method::PATCH, "/me", json!({ "name": name }), &[]).await;
            assert_eq!((response.status, response.code()), (400, "VALIDATION_ERROR"), "{name:?}");
        }
        let request = Request::new("POST /auth/login").with("Content-Type", "application/json");
        let request = request.with("User-Agent", forged).with("X-Correlation-Id", forged).with("X-Request-Id", forged);
        let body = json!({ "email": format!("{forged}@x.example"), "password": forged, "code": forged }).to_string();
        let answer = request.body(body).ask(t.addr()).await.unwrap();
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(!t.log.text().contains("forged"), "a stranger wrote into the log");
        t
    });
}

#[test]
fn an_address_asks_so_often_and_then_waits() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_AUTH_PER_MINUTE", "5"), ("DCA_TRUSTED_PROXIES", "127.0.0.1")]).await;
        let ask = async |from: &str, path: &str| {
            Browser::new(&t).ask(Method::POST, path, json!({ "email": "a" }), &[("x-forwarded-for", from)]).await
        };
        for path in ["/auth/login", "/auth/refresh", "/api/auth/login", "/auth/verify-email", "/auth/logout"] {
            assert_ne!(ask("198.51.100.7", path).await.status, 429, "{path}");
        }
        for path in ["/auth/login", "/api/auth/login", "/auth/google", "/verify"] {
            let response = ask("198.51.100.7", path).await;
            assert_eq!((response.status, response.code()), (429, "RATE_LIMIT_EXCEEDED"), "{path}: {response:?}");
            assert!((1..=60).contains(&response.header("retry-after").parse::<u64>().unwrap()), "{path}: {response:?}");
        }
        assert_ne!(ask("198.51.101.7", "/auth/login").await.status, 429, "another network");
        t
    });
}
