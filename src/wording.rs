//! The sentences for people in HTTP responses, pages and the command line. Core has none: it gives a code, a reason
//! and data.

use std::borrow::Cow;

use dca_core::users::{Provider, Role};
use dca_core::{Code, Reason, crypto::license_key::Malformed, licenses::VerdictCode};

pub fn refusal(reason: &Reason) -> Cow<'static, str> {
    match reason {
        Reason::Unspecified(code) => title(*code).into(),
        Reason::NoLicense => "No such license.".into(),
        Reason::NoMemberLicense => "This member has no license for that product.".into(),
        Reason::NoProduct { wanted, known, total } => no_product(wanted, known, *total).into(),
        Reason::RoleNotMapped { product } => format!("That role is not mapped to {product}.").into(),
        Reason::ServerNotSetUp => "This server is not set up. Invite the bot again.".into(),
        Reason::NoDelivery => "There is no delivery with this ID.".into(),
        Reason::NoActiveApiKey => "There is no active API key with this ID. It may already be revoked.".into(),
        Reason::NoUser => "No such user.".into(),
        Reason::NoSession => "No such session.".into(),
        Reason::NoServer => "No such server.".into(),
        Reason::ProviderNotLinked => "Your account is not linked to this provider.".into(),
        Reason::RoleAlreadyMapped { product } => format!("That role is already mapped to {product}.").into(),
        Reason::NothingToConfirm => "There is nothing to confirm: no sync of this server was stopped.".into(),
        Reason::PrefixIsFixed { product, prefix } => {
            format!("{product} already has the prefix {prefix}, which cannot be changed.").into()
        }
        Reason::PrefixTaken { prefix, free } => {
            format!("The key prefix {prefix}, or one that looks like it, is taken. Try {free}.").into()
        }
        Reason::NotReplayable => "Only dead or undelivered deliveries that have not expired can be replayed.".into(),
        Reason::AlreadyLicensed => "This member already has a license for that product. See `/license show`.".into(),
        Reason::SecondFactorExists => "You already have a second factor. Disable it first.".into(),
        Reason::SecondFactorNotStarted => "Start the setup of your second factor first.".into(),
        Reason::NoSecondFactor => "You have no second factor.".into(),
        Reason::LinkedElsewhere { provider: name } => {
            format!("This {} account is linked to another user here.", provider(*name)).into()
        }
        Reason::AnotherAccountLinked { provider: name } => {
            format!("Your account is already linked to another {} account. Unlink that one first.", provider(*name))
                .into()
        }
        Reason::OnlySignInMethod => "This is your only way to sign in. Set a password first.".into(),
        Reason::HoldsLicenses => "Your licenses belong to this Discord account, so it cannot be unlinked.".into(),
        Reason::AmbiguousApiKey => "Several API keys have this form. Use the ID as in `dca-auth apikey list`.".into(),
        Reason::HasOtherRole { role } => format!("This user's role is {role}.").into(),
        Reason::AlreadyRevoked => "This license is already revoked.".into(),
        Reason::NeitherIdNorKey { malformed: why } => {
            format!("Neither a license id nor a key: {}.", malformed(why)).into()
        }
        Reason::InvalidEmail => "email must be an email".into(),
        Reason::PasswordLength { min, max } => format!("password must be {min} to {max} characters long").into(),
        Reason::GuessablePassword => "password is too easy to guess; use a longer one with unrelated words".into(),
        Reason::NotOneLine { field, max } => format!("{field} must be one line of 1 to {max} characters").into(),
        Reason::ForbiddenCharacter { field, character } => forbidden(field, *character).into(),
        Reason::InvalidStatus => "status must be ACTIVE, SUSPENDED or BANNED".into(),
        Reason::InvalidProductName => "A product name must have 1 to 80 visible characters, for example Studio.".into(),
        Reason::InvalidPrefix => "A key prefix must have 2 to 8 letters A–Z or digits, for example STUDIO.".into(),
        Reason::RevocationReasonTooLong => "The reason is too long. Use at most 200 characters.".into(),
        Reason::TooManySignIns => "Too many sign-ins at the moment. Try again in a few seconds.".into(),
        Reason::TooManyAttempts => "Too many attempts. Wait before you try again.".into(),
        Reason::SignInTooOld => "Sign in again and retry within 15 minutes, or send your password.".into(),
        Reason::StateMismatch => "This sign-in was started in another browser or has expired. Start again.".into(),
        Reason::AdminsNeedSecondFactor => "Your role needs a second factor. Set one up, then sign in with it.".into(),
        Reason::UserNotBelow => "You can only manage users whose role is below yours.".into(),
        Reason::RoleNotBelow => "You can only assign roles below your own.".into(),
    }
}

fn forbidden(field: &str, character: char) -> String {
    let code = u32::from(character);
    format!("{field} has a character that is invisible or changes the direction of text (U+{code:04X}); remove it")
}

fn no_product(wanted: &str, known: &[String], total: usize) -> String {
    let more = if total > known.len() { " …" } else { "" };
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    format!("There is no product {wanted:?}. Known: {known}{more}.")
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
        Code::AccessDenied => "This request is not allowed from this origin.",
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
        Code::PayloadTooLarge => "The body may be at most 16 KiB.",
        Code::HeadersTooLarge => "Send at most 64 headers with 32 KiB in total. Delete the cookies of this site.",
        Code::ValidationError => "Correct the fields that `errors` lists.",
        Code::MethodNotAllowed => "The `Allow` header lists the methods.",
        Code::RateLimitExceeded => "Wait the number of seconds in `Retry-After`. `RateLimit` shows what is left.",
        Code::RequestTimeout => "A request may take 30 seconds, including its body. Send it again.",
        Code::Unavailable => "Send the request again after the seconds in `Retry-After`.",
        Code::Internal => "Report it to the operator with the `X-Request-Id` of the response.",
        Code::InvalidTransition => "Read the license again. A revoked license stays revoked; issue a new one.",
        Code::Conflict => "`detail` says what conflicts. Resolve that first.",
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
        Code::AccessDenied => "Add the origin of your page to `DCA_CORS_ORIGINS`, and send the `X-CSRF-Token`.",
        Code::SignInFailed => "Start the sign-in again, in the same browser.",
    }
}

pub fn verdict(code: VerdictCode, why: Option<&Malformed>) -> String {
    match (code, why) {
        (VerdictCode::MalformedKey, Some(why)) => format!("This is not a license key: {}.", malformed(why)),
        (VerdictCode::MalformedKey, None) => title(Code::MalformedKey).to_owned(),
        (VerdictCode::Valid, _) => "License is valid.".to_owned(),
        (VerdictCode::NotFound, _) => "No such license.".to_owned(),
        (VerdictCode::ProductMismatch, _) => "This license is for another product.".to_owned(),
        (VerdictCode::Revoked, _) => "License was revoked.".to_owned(),
        (VerdictCode::Expired, _) => "License has expired.".to_owned(),
        (VerdictCode::NotAssigned, _) => "This key is not assigned to anyone yet. Ask the seller.".to_owned(),
    }
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
