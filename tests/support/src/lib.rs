//! Stateful simulators ("Sims") of the external services that the app talks to.
//!
//! A Sim is a model of the service, not a list of expected calls: it keeps state, answers every request from it,
//! and lets a test act as the users of the service. Its `finish` fails if the app sent a request that the real
//! service would not understand, or if the app wrote a message that no test read.
//!
//! - [`SimDiscord`]: REST, the gateway, and "Log in with Discord".
//! - [`SimGoogle`]: "Sign in with Google".
//! - [`MailSink`]: the receiving mail servers.
//!
//! [`TcpProxy`] is a faulty network in front of a real server.
//!
//! The Sims do not depend on the app's code; they share only the network protocols.

#![expect(clippy::must_use_candidate, reason = "a test may only need the effect of a method")]

pub mod mail_sink;
mod oauth;
mod proxy;
mod shared;
pub mod sim_discord;
pub mod sim_google;

pub use mail_sink::{Mail, MailFault, MailScript, MailSink, SmtpStep};
pub use proxy::TcpProxy;
pub use sim_discord::{
    Choice, Dm, Fault, FaultKind, InteractionHandle, Opt, Reply, SeenRequest, SimDiscord, SimGuild, SimMember,
};
pub use sim_google::{GooglePerson, SimGoogle};
