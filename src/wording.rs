//! The sentences for people in HTTP responses, pages and the command line. Core has none: it gives a code, a reason
//! and data.

use std::borrow::Cow;

use dca_core::licenses::{Command, LicenseState, VerdictCode};
use dca_core::users::{Provider, Role};
use dca_core::{Code, Reason, crypto::license_key::Malformed, field::FieldFault, ids::TenantId};

/// Declares the sentence of each reason.
macro_rules! sentences {
    ($($reason:pat => $sentence:expr),* $(,)?) => {
        pub fn refusal(reason: &Reason) -> Cow<'static, str> {
            match reason {
                $($reason => $sentence.into()),*
            }
        }
    };
}

sentences! {
    Reason::Unspecified(code) => title(*code),
    Reason::NoLicense => "No such license.",
    Reason::NoMemberLicense => "This member has no license for that product.",
    Reason::NoProduct { wanted, known, total } => no_product(wanted, known, *total),
    Reason::RoleNotMapped { product } => format!("That role is not mapped to {product}."),
    Reason::ServerNotSetUp => "This server is not set up. Invite the bot again.",
    Reason::NoDelivery => "There is no delivery with this ID.",
    Reason::NoActiveApiKey => "There is no active API key with this ID. It may already be revoked.",
    Reason::NoUser => "No such user.",
    Reason::NoSession => "No such session.",
    Reason::NoServer => "No such server.",
    Reason::ProviderNotLinked => "Your account is not linked to this provider.",
    Reason::RoleAlreadyMapped { product } => format!("That role is already mapped to {product}."),
    Reason::NothingToConfirm => "There is nothing to confirm: no sync of this server was stopped.",
    Reason::PrefixIsFixed { product, prefix } =>
        format!("{product} already has the prefix {prefix}, which cannot be changed."),
    Reason::PrefixTaken { prefix, free } =>
        format!("The key prefix {prefix}, or one that looks like it, is taken. Try {free}."),
    Reason::NotReplayable => "Only dead or undelivered deliveries that have not expired can be replayed.",
    Reason::AlreadyLicensed => "This user already has a license for this product.",
    Reason::TrialUsed =>
        "This user has had a trial of this product. Give them a license whose policy has another type.",
    Reason::NoResetsLeft => "You cannot reset the devices of this license any more. Ask the seller.",
    Reason::SecondFactorExists => "You already have a second factor. Disable it first.",
    Reason::SecondFactorNotStarted => "Start the setup of your second factor first.",
    Reason::NoSecondFactor => "You have no second factor.",
    Reason::LinkedElsewhere { provider: name } =>
        format!("This {} account is linked to another user here.", provider(*name)),
    Reason::AnotherAccountLinked { provider: name } =>
        format!("Your account is already linked to another {} account. Unlink that one first.", provider(*name)),
    Reason::OnlySignInMethod => "This is your only way to sign in. Set a password first.",
    Reason::HoldsLicenses => "Your licenses belong to this Discord account, so it cannot be unlinked.",
    Reason::AmbiguousApiKey => "Several API keys have this form. Use the ID as in `dca-auth apikey list`.",
    Reason::RootKeyOffline =>
        "The root key is not in this database. Sign a list of the signing keys with its file: \
         `dca-auth keys publish --root FILE`; add `--rotate` for a new signing key.",
    Reason::OtherRootKey => "This is not the root key that apps know (`dca-auth keys root`). Use its file.",
    Reason::InvalidRootKey => "This is not an Ed25519 private key in PEM format (BEGIN PRIVATE KEY).",
    Reason::ApiKeyReplaced => "This API key was already rotated. Rotate the key that replaced it.",
    Reason::NoScopes => "scopes must name at least one scope, for example licenses:validate",
    Reason::ScopeNotForKind { scope } =>
        format!("A publishable key cannot have the scope {scope}. Leave it out, or create a secret key."),
    Reason::ProductCount { max } => format!("productIds must name 1 to {max} products"),
    Reason::ProductsOfSeveralTenants => "All products of an API key must belong to one tenant.",
    Reason::ApiKeyExpiry { max_days } => format!("expiresAt must be in the future, at most {max_days} days from now"),
    Reason::OverlapTooLong { max_seconds } => format!("overlapSeconds must be at most {max_seconds}"),
    Reason::DeviceNotActivated => "The license is not activated on this device. Activate it first.",
    Reason::OtherLicense => "The request was made with another license key. Enter this license's key in the app.",
    Reason::InvalidOfflineRequest =>
        "request must be the text that the app shows, from DCAREQ1 to its end, without line breaks",
    Reason::NotValid { code } => verdict(*code, None),
    Reason::NoOfflineUse => "The terms of this license do not allow use without a connection.",
    Reason::FileLifetime { min, max } => format!("ttlSeconds must be {min} to {max}"),
    Reason::HasOtherRole { role } => format!("This user's role is {role}."),
    Reason::NotAllowed { command, state } => not_allowed(*command, *state),
    Reason::KeyTaken => "This key belongs to another user. Ask the seller for a key of your own.",
    Reason::NoLiveSource =>
        "Nothing entitles the owner to this license any more. Give them the role again, or grant the product.",
    Reason::DoesNotExpire =>
        "This license does not expire. To give it an expiry, send `until`, for example 2030-01-01T00:00:00Z.",
    Reason::NoDuration =>
        "The policy has no duration. Send `seconds` or `until`, for example 2030-01-01T00:00:00Z.",
    Reason::ReservedReason => "The service itself gives this reason. Send one of your own, for example chargeback.",
    Reason::NotTransferable =>
        "The policy of this license does not allow transfers. Revoke it, and issue a new one to the other user.",
    Reason::UserBanned => "This user is banned from this product.",
    Reason::TooManyMatch { max } =>
        format!("More than {max} licenses match. Narrow the filter, for example with `createdBefore`."),
    Reason::ChangedMeanwhile => "Some of these licenses have changed meanwhile. Send the request again.",
    Reason::TransferTooSoon { available_at } =>
        format!("This license was transferred recently. It can be transferred again from {available_at:?} on."),
    Reason::NotInFuture { field } => format!("{field} must result in a date in the future"),
    Reason::DateOutOfRange { field } => format!("{field} must result in a date before the year 10000"),
    Reason::SeveralForOneUser => "count must be 1 if you send userId",
    Reason::CountOutOfRange { field, max } => format!("{field} must be 1 to {max}"),
    Reason::InvalidMetadata =>
        "metadata must be an object of at most 16 KiB and 64 members, nested 4 levels deep, without NUL characters",
    Reason::NotAKey { malformed: why } => format!("This is not a license key: {}.", malformed(why)),
    Reason::ResetNotYet { available_at: at } =>
        format!("You can reset the devices of this license again on {}.", at.format("%Y-%m-%d at %H:%M UTC")),
    Reason::LicenseKeyRequired => "licenseKey is required; an API key cannot name a license by its ID",
    Reason::NoDevice => "No such device.",
    Reason::NoBan => "No such ban.",
    Reason::InvalidBanEnd => "expiresAt must be in the future, and before the year 10000",
    Reason::NoLease => "No such session. It may have expired.",
    Reason::ApiKeyLacksScope { scope } =>
        format!("This API key lacks the scope {scope}. Create a key that has it."),
    Reason::NeitherIdNorKey { malformed: why } =>
        format!("Neither a license id nor a key: {}.", malformed(why)),
    Reason::InvalidEmail => "email must be an email",
    Reason::PasswordLength { min, max } => format!("password must be {min} to {max} characters long"),
    Reason::GuessablePassword => "password is too easy to guess; use a longer one with unrelated words",
    Reason::NotOneLine { field, max } => format!("{field} must be one line of 1 to {max} characters"),
    Reason::ForbiddenCharacter { field, character } => forbidden(field, *character),
    Reason::InvalidStatus => "status must be ACTIVE, SUSPENDED or BANNED",
    Reason::InvalidProductName => "A product name must have 1 to 80 visible characters, for example Studio.",
    Reason::InvalidPrefix => "A key prefix must have 2 to 8 letters A–Z or digits, for example STUDIO.",
    Reason::ProductExists { product } =>
        format!("There is a product {product:?} already. Choose another name, or change that product."),
    Reason::NoTenant => "There is no such tenant, or you do not manage it.",
    Reason::TenantRequired { manages } => tenant_required(manages),
    Reason::InvalidField { field: name, fault } => field(name, fault),
    Reason::PageLimit { max } => format!("limit must be 1 to {max}"),
    Reason::InvalidFingerprint =>
        "device.fingerprint must have 16 to 128 of the characters A-Z, a-z, 0-9, _ . : and -; hash what you read",
    Reason::InvalidComponents => "device.components may have 16 members, with names of 1 to 32 characters and \
                                  values of 1 to 128; leave out what cannot be read",
    Reason::KeyListEnded =>
        "The list of signing keys has ended. The operator has to sign a new one, with `dca-auth keys publish`.",
    Reason::TooManySignIns => "Too many sign-ins at the moment. Try again in a few seconds.",
    Reason::TooManyAttempts => "Too many attempts. Wait before you try again.",
    Reason::SignInTooOld => "Sign in again and retry within 15 minutes, or send your password.",
    Reason::StateMismatch => "This sign-in was started in another browser or has expired. Start again.",
    Reason::AdminsNeedSecondFactor => "Your role needs a second factor. Set one up, then sign in with it.",
    Reason::UserNotBelow => "You can only manage users whose role is below yours.",
    Reason::RoleNotBelow => "You can only assign roles below your own.",
}

/// Why a license does not allow a command, and what to do.
fn not_allowed(command: Command, state: LicenseState) -> String {
    let advice = match (command, state) {
        (Command::Revoke, _) => return "This license is already revoked.".to_owned(),
        (Command::Suspend, LicenseState::Suspended) => return "This license is already suspended.".to_owned(),
        (Command::Resume, LicenseState::Expired) => "It expired while it was suspended. Renew it.",
        (_, LicenseState::Revoked) => "A revoked license stays revoked. Issue a new one.",
        (Command::Assign, LicenseState::Expired) => "Renew it first.",
        (Command::Assign, _) => "It has an owner already. To give it to another user, transfer it.",
        (Command::Resume, _) => "Only a suspended license can be resumed.",
        (_, LicenseState::Suspended) => "Resume it first.",
        (_, LicenseState::Expired) => "Renew it first.",
        (_, LicenseState::Generated) => "Assign it to a user first.",
        _ => "Read its `state` again.",
    };
    format!("This license is {state}, which does not allow {command}. {advice}")
}

fn forbidden(field: &str, character: char) -> String {
    let code = u32::from(character);
    format!("{field} has a character that is invisible or changes the direction of text (U+{code:04X}); remove it")
}

/// What the sentence about an unknown field ends with.
pub const UNKNOWN_FIELD: &str = "is not a known field";

/// What is wrong with a field of a request.
pub fn field(name: &str, fault: &FieldFault) -> String {
    let fault = match fault {
        FieldFault::Missing => "is required".to_owned(),
        FieldFault::Repeated => "is given more than once".to_owned(),
        FieldFault::Unknown => UNKNOWN_FIELD.to_owned(),
        FieldFault::Expected(expected) => match expected.as_str() {
            "i64" | "u64" | "u32" => "must be a whole number".to_owned(),
            "a map" => "must be an object".to_owned(),
            "a sequence" => "must be an array".to_owned(),
            expected if expected.starts_with("struct ") => "must be an object".to_owned(),
            expected => format!("must be {expected}"),
        },
        FieldFault::Invalid => "is not valid".to_owned(),
        FieldFault::Range { min, max } => format!("must be {min} to {max}"),
        FieldFault::Years { first, last } => format!("must be a date in the years {first} to {last}"),
        FieldFault::TooMany { max } => format!("may have at most {max} entries"),
        FieldFault::Name => {
            "has a name that is not 1 to 64 of a–z, 0–9, `.`, `_` and `-`, beginning with a letter or digit".to_owned()
        }
        FieldFault::Duplicate => "has the same name twice".to_owned(),
        FieldFault::Requirement => "must be a SemVer requirement, for example `>=2, <3`".to_owned(),
        FieldFault::OnlyWith { field, value } => format!("is allowed only if {field} is {value}"),
        FieldFault::Needs { field } => format!("needs {field}"),
    };
    format!("{name} {fault}")
}

fn tenant_required(manages: &[TenantId]) -> String {
    let known: Vec<_> = manages.iter().map(ToString::to_string).collect();
    let known = if known.is_empty() { String::new() } else { format!(" You manage {}.", known.join(" and ")) };
    format!("tenantId is required.{known}")
}

fn no_product(wanted: &str, known: &[String], total: usize) -> String {
    if known.is_empty() {
        return format!("There is no product {wanted:?}.");
    }
    let more = if total > known.len() { " …" } else { "" };
    format!("There is no product {wanted:?}. Known: {}{more}.", known.join(", "))
}

/// The sentence for a code on a Spanish page.
pub const fn spanish(code: Code) -> &'static str {
    match code {
        Code::InvalidOneTimeToken => "El enlace no es válido o ha caducado. Solicita uno nuevo.",
        Code::ValidationError => "La contraseña debe tener entre 8 y 128 caracteres y no ser fácil de adivinar.",
        Code::InvalidSecondFactor => "El código no es correcto. Inténtalo de nuevo.",
        Code::RequiresSecondFactor => "Escribe el código de tu aplicación de autenticación.",
        Code::RateLimitExceeded => "Demasiados intentos. Espera un momento e inténtalo de nuevo.",
        Code::AccountSuspended => "Tu cuenta está suspendida.",
        Code::AccountBanned => "Tu cuenta está bloqueada.",
        Code::Conflict => "Esta cuenta ya está vinculada.",
        Code::Unavailable => "El servicio no está disponible. Inténtalo de nuevo en unos segundos.",
        _ => "No se ha completado la acción.",
    }
}

/// What a code means, in general.
pub const fn title(code: Code) -> &'static str {
    match code {
        Code::NotFound => "Not found.",
        Code::MalformedKey => "This is not a license key.",
        Code::NoApiKey => "Send an API key as X-API-Key or as a Bearer token.",
        Code::InvalidApiKey => "This API key is not valid.",
        Code::BadRequest => "The request is malformed.",
        Code::UnsupportedMediaType => "The content type of the body is not supported. Send application/json.",
        Code::PayloadTooLarge => "The request body is too large.",
        Code::HeadersTooLarge => "The request has too many headers, or they are too large.",
        Code::ValidationError => "The request has a wrong or missing field.",
        Code::MethodNotAllowed => "This route does not support this method.",
        Code::RateLimitExceeded => "Too many requests.",
        Code::RequestTimeout => "The request took too long.",
        Code::Unavailable => "A service this depends on is not responding. Try again later.",
        Code::Internal => "Something went wrong on our side.",
        Code::InvalidTransition => "The state of the license does not allow this.",
        Code::Conflict => "This conflicts with the current state.",
        Code::Banned => "The owner of this license is banned.",
        Code::Revoked => "This license was revoked.",
        Code::Suspended => "This license is suspended.",
        Code::Expired => "This license has expired.",
        Code::NotAssigned => "This license is not assigned to anyone.",
        Code::DeviceBlocked => "This device is banned.",
        Code::DeviceLimitExceeded => "The license is active on as many devices as it allows.",
        Code::ResetCooldown => "The devices of this license were reset not long ago.",
        Code::PreconditionFailed => "This has changed since you read it.",
        Code::InvalidCursor => "This cursor is not valid for this list.",
        Code::IdempotencyKeyReused => "This Idempotency-Key was used for another request.",
        Code::IdempotencyInProgress => "The first request with this Idempotency-Key has no response yet.",
        Code::IdempotencyAnswerLost => "This request was executed, but its response was lost.",
        Code::NoToken => "Sign in, and send the access token as a Bearer token.",
        Code::InvalidToken => "This access token is not valid.",
        Code::TokenExpired => "The access token has expired.",
        Code::InvalidSession | Code::TokenReuseDetected => "Session invalidated",
        Code::NoRefreshToken => "Missing refresh token",
        Code::InvalidOneTimeToken => "Invalid or expired token",
        Code::InvalidCredentials => "Invalid credentials",
        Code::EmailNotVerified => "Email not verified",
        Code::AccountSuspended => "Account suspended",
        Code::AccountBanned => "Account banned",
        Code::RequiresSecondFactor => "A two-factor code is required.",
        Code::InvalidSecondFactor => "Invalid two-factor code",
        Code::InsufficientRole => "Your role does not allow this.",
        Code::AccessDenied => "You are not allowed to do this.",
        Code::SignInFailed => "The sign-in was not completed.",
    }
}

/// What to do about a problem, for the catalog of codes.
pub const fn advice(code: Code) -> &'static str {
    match code {
        Code::NotFound => {
            "Check the path and the ID. Objects that your API key or role may not see are reported as not found too."
        }
        Code::MalformedKey => "Enter the key as it was sent, for example STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5.",
        Code::NoApiKey | Code::InvalidApiKey => {
            "Create a key with `dca-auth apikey create --product NAME` and send it as `X-API-Key: dca_sk_…`."
        }
        Code::BadRequest => "`detail` says where the body, the query or a header cannot be read.",
        Code::UnsupportedMediaType => "Set the header `Content-Type: application/json`.",
        Code::PayloadTooLarge => "The body may be at most 16 KiB, or 64 KiB where many IDs or metadata are sent.",
        Code::HeadersTooLarge => "Send at most 64 headers with 32 KiB in total. Delete the cookies of this site.",
        Code::ValidationError => "Correct the fields that `errors` lists.",
        Code::MethodNotAllowed => "The `Allow` header lists the methods.",
        Code::RateLimitExceeded => "Wait the number of seconds in `Retry-After`. `RateLimit` shows what is left.",
        Code::RequestTimeout => "A request may take 30 seconds, including its body. Send it again.",
        Code::Unavailable | Code::IdempotencyInProgress => "Send the request again after the seconds in `Retry-After`.",
        Code::Internal => "Report it to the operator with the `X-Request-Id` of the response.",
        Code::InvalidTransition => "Read the license again. A revoked license stays revoked; issue a new one.",
        Code::Conflict => "`detail` says what conflicts. Resolve that first.",
        Code::Banned | Code::Suspended | Code::NotAssigned | Code::DeviceBlocked => "Ask the seller.",
        Code::Revoked => "A revoked license stays revoked. Ask the seller for a new one.",
        Code::Expired => "Renew the license.",
        Code::DeviceLimitExceeded => {
            "Deactivate one of `devices`, or reset them all with `POST /licenses/{id}/reset-devices`."
        }
        Code::ResetCooldown => "Wait until `availableAt`, or ask the seller, who can reset the devices at any time.",
        Code::PreconditionFailed => "Read it again, and send its `ETag` as `If-Match`.",
        Code::InvalidCursor => {
            "Send `nextCursor` as you received it, with the same filters; or start without `cursor`."
        }
        Code::IdempotencyKeyReused => "Use a new key for each change, and repeat it only with the same request.",
        Code::IdempotencyAnswerLost => "Read the current state. To make another change, use a new key.",
        Code::NoToken => "Send an access token, for example `Authorization: Bearer eyJ…`.",
        Code::InvalidToken => "Sign in again.",
        Code::TokenExpired => "Get a new one with `POST /auth/refresh`.",
        Code::InvalidSession => "The session has ended. Sign in again.",
        Code::TokenReuseDetected => "A refresh token was used twice, so all sessions were ended. Sign in again.",
        Code::NoRefreshToken => "Send the cookie that the sign-in set, or `refreshToken` in the body.",
        Code::InvalidOneTimeToken => "Request a new email; each link works once.",
        Code::InvalidCredentials => "Check the email address and the password, or reset the password.",
        Code::EmailNotVerified => "Open the link in the verification email, or request it again.",
        Code::AccountSuspended | Code::AccountBanned => "Ask the operator.",
        Code::RequiresSecondFactor => {
            "Send the code as `twoFactorCode`, or with `twoFactorToken` to `/auth/2fa/verify`."
        }
        Code::InvalidSecondFactor => "Enter the current code of your authenticator app, or an unused recovery code.",
        Code::InsufficientRole => "Ask an admin for the role that the API reference names for this route.",
        Code::AccessDenied => {
            "Use an account or an API key that may do this. In a browser, add the origin of your page to \
             `DCA_CORS_ORIGINS`, and send the `X-CSRF-Token`."
        }
        Code::SignInFailed => "Start the sign-in again, in the same browser.",
    }
}

/// The sentence of a verdict for the user of an app, and what to do next.
pub fn verdict(code: VerdictCode, why: Option<&Malformed>) -> String {
    let sentence = match code {
        VerdictCode::MalformedKey => {
            return why.map_or_else(
                || title(Code::MalformedKey).to_owned(),
                |why| format!("This is not a license key: {}.", malformed(why)),
            );
        }
        VerdictCode::Valid => "This license is valid.",
        VerdictCode::NotFound => "No license has this key. Check it for typing errors.",
        VerdictCode::ProductMismatch => "This license is for another product.",
        VerdictCode::Banned => "The owner of this license is banned. Ask the seller.",
        VerdictCode::Revoked => "This license was revoked.",
        VerdictCode::Suspended => "This license is suspended. Ask the seller.",
        VerdictCode::Expired => "This license has expired.",
        VerdictCode::NotAssigned => "This key is not assigned to anyone yet. Ask the seller.",
        VerdictCode::DeviceRequired => "This license needs a device. Update the app, which did not name one.",
        VerdictCode::DeviceBlocked => "This device is banned. Ask the seller.",
        VerdictCode::NotActivated => "This license is not activated yet. Activate it on this device.",
        VerdictCode::DeviceNotActivated => "This license is not activated on this device. Activate it here.",
        VerdictCode::DeviceMismatch => "This device has changed too much. Activate the license on it again.",
        VerdictCode::DeviceLimitExceeded => {
            "This license is in use on too many devices. Remove one, or reset the devices."
        }
        VerdictCode::LeaseRequired => "This license needs a session. Start one with a heartbeat.",
        VerdictCode::LeaseExpired => "The session has expired. Start a new one with a heartbeat.",
        VerdictCode::LeaseSuperseded => "A newer session has taken the place of this one.",
        VerdictCode::LeaseLimitExceeded => "All sessions of this license are in use. Close the app elsewhere.",
        VerdictCode::CheckInOverdue => "This device has not checked in for too long. Activate the license on it again.",
        VerdictCode::FeatureMissing => "This license does not include the feature.",
        VerdictCode::VersionNotAllowed => "This license is not valid for this version of the app.",
        VerdictCode::QuotaExceeded => "Nothing is left of the quota for this period.",
    };
    sentence.to_owned()
}

fn malformed(why: &Malformed) -> String {
    match why {
        Malformed::TooLong { max_bytes } => format!("longer than {max_bytes} bytes"),
        Malformed::Length { symbols, expected } => {
            format!("it has {symbols} letters and digits; a key has {expected} after its prefix")
        }
        Malformed::Symbol { position } => format!("character {position} cannot be part of a key"),
        Malformed::Typo { position } => format!("there seems to be a typing error at character {position}"),
        Malformed::Check => "the prefix or more than one character is wrong".to_owned(),
    }
}

pub const fn provider(provider: Provider) -> &'static str {
    match provider {
        Provider::Discord => "Discord",
        Provider::Google => "Google",
    }
}

/// What a role may do.
pub const fn role(role: Role) -> &'static str {
    match role {
        Role::User => "Manages their own account.",
        Role::Premium => "Same rights as USER; free for the operator to use.",
        Role::Moderator => "Sees users and their sessions.",
        Role::Admin => "Suspends and bans users, ends sessions, replays deliveries.",
        Role::SuperAdmin => "Assigns and removes roles.",
    }
}
