//! Calls to the outside. With `dca_commands::rest`, the only code that makes any.

pub mod oauth;
