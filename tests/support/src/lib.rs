//! Stateful stand-ins ("Sims") of the outside parties the product talks to.
//!
//! A Sim is a *model that answers*, not a script of expectations: it keeps the state the real party
//! would keep, answers every request from it, and lets a test play the humans on the other side.
//! A Sim is also honest: what the product sends it that the real party would not understand, and
//! what it produces that no test looked at, fails its `finish`.
//!
//! - [`SimDiscord`]: REST, the gateway, and "Log in with Discord".
//! - [`SimGoogle`]: "Sign in with Google".
//! - [`MailSink`]: the world's mail servers.
//!
//! Nothing here knows the product's code; the only contract is the wire.

#![expect(clippy::must_use_candidate, reason = "verbs: their effect may be all a test wants")]

pub mod mail_sink;
mod oauth;
mod shared;
pub mod sim_discord;
pub mod sim_google;

pub use mail_sink::{Mail, MailFault, MailScript, MailSink, SmtpStep};
pub use sim_discord::{
    Choice, Dm, Fault, FaultKind, InteractionHandle, Opt, Reply, SeenRequest, SimDiscord, SimGuild, SimMember,
};
pub use sim_google::{GooglePerson, SimGoogle};
