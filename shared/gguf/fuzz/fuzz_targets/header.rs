//! Any bytes are a header or an error that says where; never a panic, and never memory beyond a multiple of their own.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = kr_gguf::check_header(bytes);
});
