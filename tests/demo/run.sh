#!/usr/bin/env bash
# A walk through Offshoot on a database of its own: `make demo`.
#
# It makes a small production (a Postgres with a shop of some hundred megabytes and a second database), imports it, serves
# branches of it, and uses them with psql, checking each step. On a terminal it then stays up to be tried; without one it
# stops everything it started. Exits non-zero when a step did not hold. Touches nothing outside its own folder below /tmp.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/environment.sh

customers=${CUSTOMERS:-150000}
idle_timeout=4s
offshoot_binary=${OFFSHOOT_BINARY:-${CARGO_TARGET_DIR:-target}/release/offshoot}
[ -x "$offshoot_binary" ] || { echo "no $offshoot_binary: run make demo, which builds it" >&2; exit 1; }
offshoot_binary=$(realpath "$offshoot_binary")
sql=$PWD/tests/shop
# The user postgres may not enter the repository.
cd /

# ---- looks

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' green=$'\e[32m' red=$'\e[31m' blue=$'\e[34m' plain=$'\e[0m'
else
    bold='' dim='' green='' red='' blue='' plain=''
fi
failures=0

title() { printf '\n%s%s%s\n' "$bold$blue" "$*" "$plain"; }
good() { printf '  %s✓ %s%s\n' "$green" "$*" "$plain"; }
bad() { printf '  %s✗ %s%s\n' "$red" "$*" "$plain"; failures=$((failures + 1)); }

now_ms() { local now=${EPOCHREALTIME/[.,]/}; echo $((now / 1000)); }

# Prints a command as a user would type it, what came back, and its time. Succeeds when the command does.
show() {
    local shown='' word began output status=0
    for word in "$@"; do
        case $word in *[[:space:]\(\)\;\*]*) shown+=" \"$word\"" ;; *) shown+=" $word" ;; esac
    done
    printf '\n%s$%s%s\n' "$bold" "$shown" "$plain"
    began=$(now_ms)
    if [ "$1" = offshoot ] && [ "$2" = import ] && [ -t 2 ]; then
        "$@" || status=$?
    else
        output=$("$@" 2>&1) || status=$?
        [ -z "$output" ] || sed 's/^/  /' <<<"$output"
    fi
    printf '  %s%s ms%s\n' "$dim" $(($(now_ms) - began)) "$plain"
    [ $status = 0 ] || bad "the command ended with $status"
    return 0
}

# check WHAT EXPECTED ACTUAL
check() {
    if [ "$2" = "$3" ]; then good "$1"; else bad "$1: expected $2, got $3"; fi
}

# ---- parts

scratch=$(mktemp -d /tmp/offshoot-demo-XXXXXX)
chmod 755 "$scratch"
postgres_bin=$(newest_postgres)
source_pid='' serve_pid=''

# Postgres refuses to run as root; anyone else runs it as themselves.
unprivileged=()
[ "$(id -u)" != 0 ] || unprivileged=(setpriv --reuid postgres --regid postgres --init-groups)

free_port() {
    local port
    for _ in $(seq 1000); do
        port=$((12000 + RANDOM % 20000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; return; fi
    done
    echo "no free port" >&2
    return 1
}

mounts() { awk -v below="$scratch/" 'index($2, below) == 1 { print $2 }' /proc/self/mounts; }

# Pids that work in a folder below $1: Postgres servers.
processes() {
    local cwd proc
    for proc in /proc/[0-9]*; do
        cwd=$(readlink "$proc/cwd" 2>/dev/null) || continue
        case $cwd in "$1"/*) echo "${proc#/proc/}" ;; esac
    done
}

# wait_for SECONDS COMMAND…: until it succeeds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

stop_all() {
    trap - EXIT INT TERM
    if [ -n "$serve_pid" ] && ! gone "$serve_pid"; then
        kill -TERM "$serve_pid"
        wait_for 60 gone "$serve_pid" || { bad 'offshoot serve does not stop'; kill -KILL "$serve_pid"; }
        wait "$serve_pid" 2>/dev/null || bad "offshoot serve ended with $?"
        [ -z "$(mounts)" ] || bad "offshoot serve left mounts: $(mounts)"
    fi
    if [ -n "$source_pid" ] && ! gone "$source_pid"; then
        kill -INT "$source_pid"
        wait_for 60 gone "$source_pid" || kill -KILL "$source_pid"
        wait "$source_pid" 2>/dev/null || true
    fi
    local left
    for left in $(processes "$scratch"); do kill -KILL "$left" 2>/dev/null || true; done
    for left in $(mounts); do umount -l "$left" 2>/dev/null || fusermount3 -uz "$left" || true; done
    rm -rf "$scratch"
}

ended_early() {
    local status=$?
    printf '\n%sthe demo broke off%s\n' "$red" "$plain" >&2
    [ ! -s "$scratch/serve.log" ] || { echo 'the end of the log:' >&2; tail -30 "$scratch/serve.log" >&2; }
    stop_all
    exit $((status == 0 ? 1 : status))
}
trap ended_early EXIT
trap 'exit 130' INT TERM

start_source() {
    install -d "$scratch/source"
    [ "$(id -u)" != 0 ] || chown postgres "$scratch/source"
    echo postgres-pw >"$scratch/password"
    "${unprivileged[@]}" "$postgres_bin/initdb" -D "$scratch/source/data" --pwfile="$scratch/password" --no-sync --locale=C.UTF-8 \
        --encoding=UTF8 --username=postgres --auth=scram-sha-256 >/dev/null
    "${unprivileged[@]}" "$postgres_bin/postgres" -D "$scratch/source/data" -p "$source_port" -k "$scratch/source" \
        -c listen_addresses=127.0.0.1 -c max_wal_size=4GB -c shared_buffers=256MB >"$scratch/source.log" 2>&1 </dev/null &
    source_pid=$!
    wait_for 30 quiet "$source_url/postgres" 'select 1' >/dev/null 2>&1 || { cat "$scratch/source.log" >&2; return 1; }
    psql -X -q -f "$sql"/roles.sql "$source_url/postgres"
    psql -X -q -v customers="$customers" -f "$sql"/shop.sql "$source_url/shop"
    psql -X -q -v customers="$customers" -f "$sql"/analytics.sql "$source_url/analytics"
}

quiet() { psql -X -q -A -t -d "$1" -c "$2"; }

offshoot() { "$offshoot_binary" --config "$scratch/offshoot.toml" "$@"; }

serve() {
    "$offshoot_binary" --config "$scratch/offshoot.toml" serve >"$scratch/serve.log" 2>&1 </dev/null &
    serve_pid=$!
    wait_for 30 answers_or_ended && healthy || { cat "$scratch/serve.log" >&2; return 1; }
}

answers_or_ended() { gone "$serve_pid" || healthy; }

healthy() {
    local status
    gone "$serve_pid" && return 1
    {
        exec 3<>"/dev/tcp/127.0.0.1/$admin_port" || return 1
    } 2>/dev/null
    printf 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    IFS= read -r -t 5 status <&3 || status=''
    exec 3>&-
    [[ $status == 'HTTP/1.1 200'* ]]
}

# field BRANCH KEY: one value of `branch list --json`.
field() {
    offshoot branch list --json | tr -d ' \n' | tr '}' '\n' | grep -F "\"name\":\"$1\"" | sed -E "s/.*\"$2\":\"?([^\",]*).*/\1/"
}
asleep() { [ "$(field "$1" state)" = asleep ]; }
megabytes() { echo "$(($1 / 1000000)).$(($1 / 100000 % 10)) MB"; }

# ---- the walk

source_port=$(free_port) listen_port=$(free_port) admin_port=$(free_port)
source_url="postgres://postgres:postgres-pw@127.0.0.1:$source_port"
branches="postgres://app:app-pw@127.0.0.1:$listen_port"
export PAGER=cat PSQL_PAGER=cat
cat >"$scratch/offshoot.toml" <<CONFIG
[server]
listen = "127.0.0.1:$listen_port"
admin_listen = "127.0.0.1:$admin_port"
data_dir = "$scratch/node"

[store]
url = "file://$scratch/store"

[[project]]
name = "shop"
idle_timeout = "$idle_timeout"
CONFIG

title 'A production: one Postgres, two databases'
began=$(now_ms)
start_source
printf '  %smade in %s ms%s\n' "$dim" $(($(now_ms) - began)) "$plain"
totals='select count(*) as orders, sum(total) as revenue from orders'
show psql -X -c "select datname, pg_size_pretty(pg_database_size(oid)) as size from pg_database where datname in ('shop', 'analytics')" "$source_url/postgres"
show psql -X -c 'select name, email, card_number, city from customers limit 3' "$source_url/shop"
before=$(quiet "$source_url/shop" "$totals")
events=$(quiet "$source_url/analytics" 'select count(*) from events')
base_bytes=$(quiet "$source_url/postgres" 'select sum(pg_database_size(oid)) from pg_database')
good "$(megabytes "$base_bytes") of customers, orders and events"

title 'Import it, while it runs'
show offshoot import shop --from "$source_url/postgres"
show offshoot base list shop
check 'there is one base' 1 "$(offshoot base list shop --json | grep -o '"version"' | wc -l)"

title 'Serve'
printf '\n%s$ offshoot serve &%s\n' "$bold" "$plain"
serve
check 'it answers on /healthz' 0 "$(healthy && echo 0 || echo 1)"
check 'no branch exists' '[]' "$(offshoot branch list --json | tr -d ' \n')"

title 'Connect to shop@pr-1: it is made on the spot'
began=$(now_ms)
show psql -X -c "$totals" "$branches/shop@pr-1"
first_ms=$(($(now_ms) - began))
check 'it is all of production' "$before" "$(quiet "$branches/shop@pr-1" "$totals")"

title 'Change it'
show psql -X -c "update orders set total = total * 2 where id % 10 = 0" "$branches/shop@pr-1"
show psql -X -c 'alter table customers add column loyalty int default 5' "$branches/shop@pr-1"
show psql -X -c "create table mine as select 'only here'::text as word" "$branches/shop@pr-1"
show psql -X -c "delete from events where kind = 'search'" "$branches/analytics@pr-1"
changed=$(quiet "$branches/shop@pr-1" "$totals")
check 'its revenue is another' differs "$([ "$changed" != "$before" ] && echo differs || echo same)"
check 'its other database changed too' $((events * 3 / 4)) "$(quiet "$branches/analytics@pr-1" 'select count(*) from events')"

title 'Connect to shop@pr-2: unchanged'
show psql -X -c "$totals" "$branches/shop@pr-2"
check 'it has the revenue of production' "$before" "$(quiet "$branches/shop@pr-2" "$totals")"
check 'it has no table "mine"' '' "$(quiet "$branches/shop@pr-2" "select to_regclass('mine')")"
check 'its other database is whole' "$events" "$(quiet "$branches/analytics@pr-2" 'select count(*) from events')"

title 'Look at production: unchanged'
show psql -X -c "$totals" "$source_url/shop"
check 'it has its revenue' "$before" "$(quiet "$source_url/shop" "$totals")"
check 'it has no table "mine"' '' "$(quiet "$source_url/shop" "select to_regclass('mine')")"

title "Nobody is connected: after $idle_timeout they fall asleep"
wait_for 60 asleep shop@pr-1 || bad 'shop@pr-1 does not fall asleep'
wait_for 60 asleep shop@pr-2 || bad 'shop@pr-2 does not fall asleep'
show offshoot branch list
check 'no branch has a mount' '' "$(mounts)"
check 'no branch has a process' '' "$(processes "$scratch/node")"
one=$(field shop@pr-1 own_bytes) two=$(field shop@pr-2 own_bytes)
good "base $(megabytes "$base_bytes"), shop@pr-1 $(megabytes "$one"), shop@pr-2 $((two / 1024)) KiB"
check 'a changed branch holds what it changed' less "$([ "$one" -lt $((base_bytes / 2)) ] && echo less || echo "$one")"
check 'an unchanged branch holds next to nothing' 'at most 64 KiB' "$([ "$two" -le 65536 ] && echo 'at most 64 KiB' || echo "$two")"

title 'Wake one by connecting'
began=$(now_ms)
show psql -X -c "$totals" "$branches/shop@pr-1"
wake_ms=$(($(now_ms) - began))
check 'its changes are there' "$changed" "$(quiet "$branches/shop@pr-1" "$totals")"
check 'its table is there' 'only here' "$(quiet "$branches/shop@pr-1" 'select word from mine')"

title 'In short'
printf '  connect to a new branch %s ms, wake one %s ms; %s of data copied for neither\n' "$first_ms" "$wake_ms" "$(megabytes "$base_bytes")"

if [ -t 0 ] && [ -t 1 ] && [ $failures = 0 ]; then
    title 'It stays up for you to try; Ctrl-C ends it'
    printf '  %s\n' "psql $branches/shop@anything" "psql $branches/analytics@anything" "psql $source_url/shop   (production)" \
        "$offshoot_binary --config $scratch/offshoot.toml branch list"
    trap 'printf "\n"; interrupted=yes' INT
    interrupted=''
    while [ -z "$interrupted" ] && ! gone "$serve_pid"; do sleep 1 || true; done
fi

stop_all
if [ $failures != 0 ]; then
    printf '\n%s%s steps did not hold%s\n' "$red" "$failures" "$plain"
    exit 1
fi
printf '\n%severy step held; nothing is left behind%s\n' "$green" "$plain"
