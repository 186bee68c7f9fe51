//! Random numbers and summaries.

use std::hash::{BuildHasher, RandomState};

/// Random numbers (`SplitMix64`), another sequence in each run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: usize) -> Self {
        Self(RandomState::new().hash_one(seed))
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.number() % end as u64).unwrap_or_default()
    }

    /// From 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.number() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }
}

/// Minimum, median and maximum.
pub fn spread(samples: &[f64]) -> [f64; 3] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    [0, 50, 100].map(|percent| percentile(&sorted, percent))
}

/// The given percentile of sorted values.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}

/// Prints the spread of a figure.
pub fn print(name: &str, unit: &str, samples: &[f64]) {
    let [min, median, max] = spread(samples);
    println!("{name:<44}{unit:>12}{min:>12.2}{median:>12.2}{max:>12.2}");
}

pub fn print_header(title: &str) {
    println!("\n{title:<44}{:>12}{:>12}{:>12}{:>12}", "", "min", "median", "max");
}
