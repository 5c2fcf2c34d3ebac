//! Random cases from a printed seed; `PVBLOB_TEST_SEED` repeats a run.

use std::time::{SystemTime, UNIX_EPOCH};

use proptest::test_runner::{Config, RngSeed};

/// Returns a configuration for so many cases, having printed its seed.
pub fn seeded(cases: u32) -> Config {
    let given = std::env::var("PVBLOB_TEST_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64);
    println!("PVBLOB_TEST_SEED={seed}");
    Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Default::default() }
}
