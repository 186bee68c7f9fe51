//! The HTTP API and its pages.

mod access_tokens;
mod account_routes;
mod accounts;
mod administration;
mod aliases;
mod asvs;
mod brute_force;
mod emailed_links;
mod erasure;
mod limits;
mod linking;
mod ops;
mod pages;
mod refresh_tokens;
mod second_factor;
mod sign_in;
mod tokens;
mod validate;
mod validate_limits;
