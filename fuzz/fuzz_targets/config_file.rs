#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    offshoot::compute::fuzzing::config_file(data);
});
