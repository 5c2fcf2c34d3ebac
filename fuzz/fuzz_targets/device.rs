//! `cargo fuzz run device`: see `pvblob_fuzz::device`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pvblob_fuzz::device::check(data));
