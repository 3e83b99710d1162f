#!/usr/bin/env bash
# Fuzzes every format that is read from a disk or a store, from its corpus on: tests/fuzz.sh SECONDS [TARGET…]. Without targets, all of them, two at a time.
# No sanitizer: these need a nightly compiler, and all but a few blocks of the program are safe Rust; what is looked for are panics, overflows,
# runaway memory and what `fuzzing.rs` asserts. What breaks a target is kept in fuzz/artifacts; what is new, in fuzz/found.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/environment.sh

seconds=$1
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then
    mapfile -t targets < <(sed -n 's/^name = "\(.*\)"$/\1/p' fuzz/Cargo.toml | grep -v offshoot-fuzz)
fi

# cargo-fuzz's default is one codegen unit: the last crate is then compiled on one core alone.
cargo fuzz build --sanitizer none --codegen-units 16

fuzz() {
    local target=$1 log
    log=$(mktemp)
    mkdir -p "fuzz/found/$target" "fuzz/artifacts/$target"
    if cargo fuzz run --sanitizer none --codegen-units 16 "$target" "fuzz/found/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 -max_len=65536 -print_final_stats=1 >"$log" 2>&1; then
        printf 'fuzz: %-14s %s runs\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
    else
        cat "$log"
        printf 'fuzz: %s BROKE: see above, and fuzz/artifacts/%s\n' "$target" "$target"
        return 1
    fi
    rm -f "$log"
}
export -f fuzz
export seconds
printf '%s\n' "${targets[@]}" | xargs -P 2 -I{} bash -c 'fuzz {}'
