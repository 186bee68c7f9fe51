//! The HTTP API and its pages.

mod accounts;
mod administration;
mod aliases;
mod asvs;
mod brute_force;
mod erasure;
mod limits;
mod ops;
mod pages;
mod second_factor;
mod sign_in;
mod tokens;
mod validate;
