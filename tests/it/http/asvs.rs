//! Security requirements for accounts and the tests that cover them: OWASP ASVS 5.0 (numbers), best current practices
//! for OAuth (OA), JWTs (JW), cookies (CK) and problem documents (PD), and ten incidents of other systems (T). A
//! requirement without a test has a reason. The tests here check every account route: bad input, safe methods, response
//! headers and the rate limit.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Every requirement.
const REQUIREMENTS: &str = "
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

/// Requirements and the tests that cover them: `module::test` in this folder, `path/to/file::test` elsewhere.
const COVERED: &[(&str, &str)] = &[
    ("1.2.1", "http::pages::pages_escape_all_external_input"),
    ("1.2.1", "src/outbound/tests::html_part_has_a_button_and_escapes_values"),
    ("1.2.4 1.3.11", "http::administration::user_list_validates_its_parameters_and_searches_literally"),
    ("1.3.11", "src/outbound/tests::user_name_cannot_add_headers_paragraphs_or_markup"),
    ("2.2.1 PD-7", "http::account_routes::unusual_strings_in_other_routes_are_refused_or_harmless"),
    ("2.2.1 2.2.2 15.3.7 PD-1 PD-4 PD-7 5.2.1", "http::account_routes::bad_input_is_refused_by_every_account_route"),
    ("2.3.3", "http::sign_in::every_new_account_records_one_event"),
    ("2.4.1 6.1.1 6.3.1 T-01", "http::brute_force::only_ten_of_two_hundred_concurrent_password_guesses_are_checked"),
    ("2.4.1", "http::brute_force::emails_per_address_are_limited_to_five_an_hour_without_revealing_it"),
    ("6.1.1 7.1.1 7.1.2 7.1.3", "src/config/tests::env_example_matches_the_reference"),
    ("6.1.1", "http::brute_force::failed_attempts_elsewhere_do_not_lock_out_a_known_browser"),
    ("6.3.1", "http::brute_force::attempts_are_limited_per_network_and_a_success_refunds_only_its_own"),
    ("6.3.1", "http::brute_force::the_limits_of_a_network_do_not_stop_a_known_browser"),
    ("6.5.1 6.6.3", "http::second_factor::wrong_codes_are_limited_per_day_and_reported_to_the_owner_once"),
    ("3.5.1", "http::origins::a_session_cookie_without_origin_needs_the_csrf_token"),
    ("6.3.1", "http::brute_force::instances_share_attempt_counts"),
    ("3.3.1 3.3.2 3.3.3 3.3.4 CK-1 CK-2", "src/http/cookies::refresh_cookie_attributes_follow_url_scheme_and_settings"),
    ("CK-4 CK-5", "http::accounts::refresh_cookie_is_cleared_with_the_attributes_it_was_set_with"),
    ("CK-3 CK-4 CK-7 14.3.1", "http::account_routes::cookies_are_small_expire_and_are_set_only_by_sign_in"),
    ("CK-6", "http::refresh_tokens::a_duplicate_cookie_is_ignored"),
    ("3.4.1", "http::origins::hsts_is_sent_only_if_the_public_url_is_https"),
    ("3.4.2", "http::origins::cors_allows_only_the_configured_origins"),
    ("3.2.1 3.4.3 3.4.4 3.4.5 3.4.6 OA-14", "http::ops::every_response_has_the_security_headers"),
    ("3.5.1 3.5.2", "http::origins::cookies_are_accepted_only_from_allowed_origins"),
    ("3.5.2", "http::account_routes::bad_input_is_refused_by_every_account_route"),
    ("3.5.3", "http::account_routes::get_and_head_requests_change_nothing"),
    ("3.5.3", "http::pages::opening_a_verification_link_changes_nothing_and_submitting_its_form_verifies_the_email"),
    ("4.1.1 PD-6 13.4.4 13.4.2 16.5.1", "http::account_routes::responses_have_the_right_content_type"),
    ("4.1.3 15.3.4", "src/http/extract::client_ip_ignores_addresses_forwarded_by_untrusted_hosts"),
    ("4.1.3 15.3.4", "http::validate_limits::forwarded_addresses_of_untrusted_proxies_are_ignored"),
    ("6.2.1 6.2.4 6.2.11", "http::passwords::weak_passwords_are_refused_wherever_a_password_is_set"),
    ("6.2.4 6.2.11", "core/src/crypto/password::guessable_passwords_are_detected"),
    ("6.2.2 6.2.3 6.2.5 6.2.8 6.2.9", "http::passwords::passwords_are_compared_exactly"),
    ("6.2.3 7.5.1 T-06", "http::brute_force::reauthentication_shares_the_attempt_limit_of_sign_in"),
    ("6.2.10", "http::refresh_tokens::a_session_ends_when_idle_for_a_week_and_after_ninety_days"),
    ("6.3.2", "http::administration::admin_create_makes_the_first_admin"),
    ("6.3.3", "http::second_factor::admins_cannot_act_without_a_required_second_factor"),
    ("6.3.4 6.4.3 T-08", "http::second_factor::password_reset_and_provider_sign_in_do_not_bypass_the_second_factor"),
    ("6.3.4", "http::sign_in::sign_in_with_a_provider_requires_the_second_factor"),
    ("6.4.1", "http::tokens::tokens_expire"),
    ("6.4.1 T-07", "http::emailed_links::one_time_token_works_only_for_its_purpose_and_does_not_lift_a_suspension"),
    ("6.4.2", "http::brute_force::responses_do_not_reveal_whether_an_account_exists"),
    ("6.5.1", "http::second_factor::concurrent_sign_ins_use_a_code_only_once"),
    ("6.5.1 6.5.5 T-09", "http::second_factor::a_wrong_code_is_refused_and_a_valid_code_works_once"),
    ("6.5.2 6.5.4", "http::second_factor::secret_and_recovery_codes_are_not_stored_in_plain_text"),
    ("6.5.1", "http::second_factor::a_recovery_code_works_once_in_any_notation"),
    ("6.5.3", "architecture::time_and_randomness_have_one_source_each"),
    ("6.6.2 OA-7 OA-3 10.1.2 10.2.1 10.5.1", "http::sign_in::a_callback_that_does_not_match_its_sign_in_is_refused"),
    ("6.6.3 T-01", "http::brute_force::at_most_ten_concurrent_code_guesses_are_checked"),
    ("6.8.1 10.5.2 T-04", "http::linking::a_matching_email_does_not_link_accounts"),
    ("T-04", "http::linking::an_email_verified_by_a_provider_replaces_an_unverified_account"),
    ("T-04", "http::emailed_links::verifying_an_email_discards_passwords_set_before"),
    ("T-04", "http::tokens::a_pending_link_ends_with_its_session"),
    (
        "T-04",
        "http::emailed_links::the_password_of_a_sign_up_stays_only_if_its_browser_or_the_password_verifies_the_email",
    ),
    ("T-04 7.5.1", "http::linking::linking_and_unlinking_need_the_password_or_a_recent_sign_in_and_notify_the_owner"),
    ("7.1.2", "http::refresh_tokens::a_sign_in_beyond_the_session_limit_ends_the_oldest_session"),
    ("7.2.1 7.4.1", "http::refresh_tokens::a_revoked_session_ends_on_every_instance_immediately"),
    ("7.2.3 9.1.1 9.1.2 9.1.3 9.2.1 9.2.2 9.2.3 9.2.4", "http::access_tokens::a_forged_access_token_is_refused"),
    ("JW-1 JW-3 JW-4 JW-5 JW-6 JW-7 JW-9 16.3.3", "http::access_tokens::a_forged_access_token_is_refused"),
    ("JW-11", "http::access_tokens::an_access_token_expires_after_fifteen_minutes"),
    ("JW-2", "src/config/tests::published_example_secrets_are_refused"),
    ("9.1.1", "http::access_tokens::a_token_of_another_installation_is_refused"),
    ("7.2.4", "http::refresh_tokens::concurrent_refreshes_return_the_same_successor"),
    ("7.3.1", "http::refresh_tokens::an_unused_refresh_token_expires_without_counting_as_reuse"),
    ("7.3.2", "http::refresh_tokens::a_session_ends_when_idle_for_a_week_and_after_ninety_days"),
    ("7.4.1", "http::refresh_tokens::any_token_of_a_session_can_log_it_out"),
    ("7.4.2", "http::refresh_tokens::inactive_users_cannot_refresh"),
    (
        "7.4.2 7.4.5 16.3.1",
        "http::administration::ban_ends_sessions_at_once_and_is_reported_only_with_the_right_password",
    ),
    ("7.4.2", "http::erasure::deletion_needs_the_password_and_is_undone_by_a_sign_in_within_14_days"),
    ("7.4.3", "http::second_factor::enabling_ends_all_other_sessions"),
    ("6.4.4 7.5.1", "http::second_factor::disabling_requires_password_and_code"),
    ("7.5.2", "http::accounts::logout_all_ends_only_the_callers_sessions"),
    ("7.6.1 7.6.2", "http::sign_in::banned_and_suspended_users_cannot_sign_in_with_a_provider"),
    ("8.2.1 8.3.1", "http::administration::each_role_can_call_only_its_operations"),
    ("8.2.1", "http::administration::admins_cannot_act_on_users_of_the_same_or_a_higher_role"),
    ("8.2.2 8.2.3 15.3.1 15.3.3", "http::administration::users_cannot_raise_their_own_privileges"),
    ("15.3.3", "http::accounts::undocumented_request_fields_are_ignored"),
    ("8.4.1", "http::administration::guild_manager_sees_only_the_license_holders_of_the_guild"),
    (
        "10.1.1 14.2.1 OA-11 OA-9",
        "http::sign_in::the_browser_returns_to_the_frontend_with_a_cookie_and_no_token_in_the_url",
    ),
    ("OA-1 OA-2 OA-4 OA-12 10.2.2 OA-6", "http::sign_in::sign_in_with_a_provider_works_with_redirects_json_and_pages"),
    ("OA-8 T-05", "http::refresh_tokens::refresh_token_reuse_after_its_successor_was_used_ends_all_sessions"),
    ("OA-8", "http::refresh_tokens::refresh_token_reuse_is_a_retry_within_ten_seconds_and_ends_all_sessions_after"),
    ("OA-13 11.3.2", "http::sign_in::provider_tokens_are_stored_encrypted"),
    ("11.3.1 11.3.2 11.3.3", "core/src/crypto/seal::ciphertexts_decrypt_only_in_their_row_and_purpose"),
    ("11.1.1 11.1.2", "http::tokens::a_token_is_accepted_only_as_its_own_kind"),
    ("11.2.2", "http::passwords::bcrypt_hash_of_an_earlier_system_is_replaced_at_sign_in"),
    ("11.4.1 11.4.2", "core/src/crypto/password::argon2_and_bcrypt_hashes_are_compared_within_cost_limits"),
    ("13.3.1", "src/config/tests::secrets_are_redacted_in_debug_and_read_from_files"),
    ("14.3.2", "http::ops::every_response_has_the_security_headers"),
    ("16.2.5", "http::tokens::no_token_is_stored_or_logged_in_plain_text"),
    ("16.2.1 16.2.2 PD-3 16.4.1", "http::account_routes::requests_are_logged_once_and_cannot_forge_log_lines"),
    ("16.3.1", "http::erasure::export_contains_everything_but_secrets"),
    ("16.5.3", "http::ops::probes_report_an_unavailable_database_and_other_routes_keep_responding"),
    ("PD-2", "http::validate::an_invalid_request_is_refused_with_a_problem_and_changes_nothing"),
    ("PD-5", "http::account_routes::account_routes_are_rate_limited_per_network"),
    ("T-02", "http::pages::links_in_emails_use_the_configured_address"),
    ("T-10", "src/config/tests::published_example_secrets_are_refused"),
];

/// Requirements without a test, and the reason.
const NOT_COVERED: &[(&str, &str)] = &[
    ("1.3.6 15.3.2", "no request is ever sent to a URL that a user supplied"),
    ("1.3.7", "email templates are compiled in and cannot be edited"),
    ("1.5.2", "unknown members are ignored: clients of the earlier systems send more than is documented"),
    ("2.3.1 2.3.4", "concerns licenses and devices, not accounts"),
    ("4.1.2", "the operator terminates TLS here or at a proxy; plain HTTP is for use on one machine"),
    ("4.2.1", "handled by the HTTP library"),
    ("4.4.1 4.4.2 4.4.3 4.4.4", "there is no WebSocket yet"),
    ("5.3.2 5.4.1 5.4.2", "the only file served is the export, whose name is fixed"),
    ("6.2.12", "no list of breached passwords is embedded; the strength estimate covers the most common ones"),
    (
        "6.8.2 10.5.3 10.5.4",
        "no assertion is read: the profile is fetched from the provider with the access token for the code",
    ),
    ("10.4 OA-5", "the service is not an authorization server"),
    ("11.5.1", "concerns license keys, where the exception is documented"),
    ("11.6.1", "Ed25519 keys are random bytes from the keyring"),
    ("12.1.1 12.3.1 12.3.2", "handled by the TLS library, and tested with email"),
    ("13.2.1 13.2.2 13.2.3 13.2.4", "depends on how the operator deploys the service"),
    ("13.4.5", "the OpenAPI description is public on purpose; metrics have their own test"),
    ("15.2.2", "concurrent hashes are limited; measured by the `logins` benchmark"),
    ("16.3.2", "a refused request is in the access log with its status; the event log holds only what happened"),
    ("16.3.4", "every failure is logged as one error line; the harness counts them in every test"),
    ("16.4.2", "the service never updates events; the owner of the database could"),
    ("16.5.2", "calls to providers and the mail server have timeouts, but no circuit breaker"),
    ("JW-8", "access tokens have no `nbf` claim"),
    ("JW-10", "the signing key is not rotated yet"),
    ("OA-10", "no credentials are forwarded: the callback redirects with 302, or 303 after a form"),
    ("T-03", "no route creates an API key"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_requirement_has_an_existing_test_or_a_reason() {
    let ids = |text: &'static str| text.split_whitespace();
    let all: BTreeSet<&str> = ids(REQUIREMENTS).collect();
    let covered: BTreeSet<&str> = COVERED.iter().flat_map(|(requirements, _)| ids(requirements)).collect();
    let not_covered: BTreeSet<&str> = NOT_COVERED.iter().flat_map(|(requirements, _)| ids(requirements)).collect();
    assert_eq!(covered.intersection(&not_covered).collect::<Vec<_>>(), [&""; 0], "covered and not covered");
    let listed = covered.union(&not_covered).copied().collect();
    assert_eq!(all, listed, "every requirement needs a row, and every row a requirement");
    let mut sources: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (requirements, test) in COVERED {
        let (module, name) = test.rsplit_once("::").unwrap();
        let file = match module {
            "architecture" => "tests/it/architecture/mod.rs".to_owned(),
            module if module.contains('/') => format!("{module}.rs"),
            module => format!("tests/it/{}.rs", module.replace("::", "/")),
        };
        let path = root().join(file);
        let source = sources.entry(path.clone()).or_insert_with(|| std::fs::read_to_string(&path).unwrap_or_default());
        let mut lines_of_source = source.lines().map(str::trim);
        let signature = format!("fn {name}()");
        let exists = lines_of_source.any(|line| line == "#[test]")
            && source
                .lines()
                .zip(source.lines().skip(1))
                .any(|(attribute, line)| attribute.trim() == "#[test]" && line.trim().starts_with(&signature));
        assert!(exists, "{requirements}: no test {test}");
    }
}
