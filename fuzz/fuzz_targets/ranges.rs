//! `cargo fuzz run ranges`: see `pvblob_fuzz::ranges`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pvblob_fuzz::ranges::check(data));
