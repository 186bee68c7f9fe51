//! What the benchmarks share.

pub mod database;
pub mod discord;
pub mod load;
pub mod process;
pub mod seed;
pub mod stats;

use std::error::Error;

pub type BenchResult<T> = Result<T, Box<dyn Error + Send + Sync>>;
