//! User accounts, from sign-up to sign-out.
//!
//! ```text
//! sign_up -> [PENDING] -> email -> verify_email -> [ACTIVE] -> sign_in -> session -> refresh ... -> sign_out
//! ```
//! A user has a **credential** (the password), **identities** (accounts at providers, see [`providers`]) and
//! optionally a **second factor** ([`second_factor`]). A **session** ([`sessions`]) is one sign-in with all tokens
//! refreshed from it. Several unverified accounts may share an email address; the first to verify it owns it, and
//! the others are deleted. Accounts are never linked by email address.
//!
//! To prevent account enumeration, responses and their timing do not depend on whether an address has an account.
//! Anything that does is sent by email ([`emails`]).

pub mod admin;
mod client;
mod credentials;
pub mod emails;
pub mod erasure;
pub mod guild_managers;
mod limits;
pub(crate) mod one_time;
mod passwords;
mod policy;
mod profile;
pub mod providers;
mod reauthentication;
mod registration;
pub mod second_factor;
pub mod sessions;
mod sign_in;
mod totp;
mod verification;

pub use self::client::ClientInfo;
pub use self::passwords::{change_password, check_reset_token, request_reset, reset_password};
pub use self::policy::{AccountPolicy, Accounts};
pub use self::profile::{Profile, change_profile};
pub use self::registration::{SignUp, SignedUp, sign_up};
pub use self::sessions::{Principal, SignedIn};
pub use self::sign_in::{SignIn, sign_in};
pub use self::verification::{EmailVerification, asks_for_password, resend_verification, verify_email};
