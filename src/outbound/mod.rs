//! Outbound connections other than Discord: [`mail`] sends emails, and [`oauth`] reads user profiles from OAuth
//! providers. Nothing else in this package opens outbound connections. [`dm_pause`] pauses direct messages.

pub(crate) mod dm_pause;
mod domains;
pub mod mail;
pub mod mail_error;
pub mod oauth;
mod smtp;
mod templates;
#[cfg(test)]
mod tests;
