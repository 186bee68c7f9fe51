//! The HTTP API and its pages.

mod access_tokens;
mod account_routes;
mod accounts;
mod administration;
mod aliases;
mod api_document;
mod asvs;
mod brute_force;
mod earlier_clients;
mod email_change;
mod emailed_links;
mod erasure;
mod key_rotation;
mod limits;
mod linking;
mod ops;
mod pages;
mod problems;
mod refresh_tokens;
mod second_factor;
mod sign_in;
mod tokens;
mod validate;
mod validate_limits;
