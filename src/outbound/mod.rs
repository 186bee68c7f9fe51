//! Calls out, to everything but Discord: [`mail`] speaks to the mail server, [`oauth`] asks
//! providers who somebody is. Nothing else in this package
//! opens a connection to somebody.

mod domains;
pub mod mail;
pub mod oauth;
mod smtp;
mod templates;
#[cfg(test)]
mod tests;

pub use mail::Mailer;
