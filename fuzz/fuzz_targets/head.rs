#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    offshoot::store::fuzzing::head(data);
});
