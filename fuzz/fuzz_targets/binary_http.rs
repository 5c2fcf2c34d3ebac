//! `cargo fuzz run binary_http`: see `pvblob_fuzz::binary_http`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pvblob_fuzz::binary_http::check(data));
