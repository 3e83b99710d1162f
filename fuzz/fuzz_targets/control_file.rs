#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    offshoot::compute::fuzzing::control_file(data);
});
