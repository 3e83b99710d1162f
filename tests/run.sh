#!/usr/bin/env bash
# Runs every test; arguments go to `cargo nextest run`. What cannot run here for want of a program is left out by name,
# announced before and after, and counted as skipped in the closing line. Run from anywhere.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/environment.sh

# nextest runs what any of several -E names; what the caller's name is to be narrowed by ours.
named=''
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    -E | --filterset) named="${named:+$named or }($2)" && shift 2 ;;
    *) arguments+=("$1") && shift ;;
    esac
done
filter="(${named:-all()})"
left_out=()
if [ -z "$(postgres18)" ]; then
    filter="$filter - test(/postgres_18/)"
    left_out+=('everything on PostgreSQL 18: its binaries could not be installed (see `make setup`)')
fi
if [ ! -e "$OFFSHOOT_CACHE/store-servers/offshoot-wanted" ]; then
    filter="$filter - test(/azure/) - test(/s3rver/)"
    left_out+=('Azure, on Azurite, and the refusal of s3rver: npm could not install them (see `make setup`)')
fi
announce() {
    for what in "${left_out[@]}"; do printf '\n*** NOT TESTED: %s ***\n\n' "$what" >&2; done
}

# A server that is killed leaves a System V segment of 56 bytes behind, and the kernel has room for 4096: some dozen runs. Those of the user that the tests'
# servers run as, that nobody is attached to, and whose maker is gone, are of no use to anybody.
remove_orphaned_segments() {
    [ -r /proc/sysvipc/shm ] || return 0
    local owner
    owner=$(id -u)
    if [ "$owner" = 0 ]; then owner=$(id -u postgres 2>/dev/null || echo nobody); fi
    awk -v owner="$owner" '$4 == 56 && $7 == 0 && $8 == owner { print $2, $5 }' /proc/sysvipc/shm | while read -r id maker; do
        [ -e "/proc/$maker" ] || ipcrm -m "$id" 2>/dev/null || true
    done
}

remove_orphaned_segments
announce
trap announce EXIT
cargo nextest run --locked -E "$filter" "${arguments[@]}"
