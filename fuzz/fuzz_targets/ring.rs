//! `cargo fuzz run ring`: see `pvblob_fuzz::ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pvblob_fuzz::ring::check(data));
