#!/usr/bin/env bash
# Holds the conformance database to what it says: loads it into a fresh cluster, dumps and restores every database into a
# second one, and looks for every line of secrets.txt and literals.txt in the raw data. Leaves nothing behind.
#     check.sh [folder with Postgres's programs]      default: /usr/lib/postgresql/15/bin; pg_dump must be of the server's version
# Run by root it becomes postgres for the servers, which refuse root.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
bin=${1:-/usr/lib/postgresql/15/bin}
as=()
[ "$(id -u)" != 0 ] || as=(runuser -u postgres --)
# No secret of the caller's environment, nor its server, comes in.
unset "${!PG@}"
export PGOPTIONS='-c client_min_messages=error'

scratch=$("${as[@]}" mktemp -d /tmp/masked-check.XXXXXX)
stop() {
    for cluster in raw copy; do
        if [ -e "$scratch/$cluster/postmaster.pid" ]; then
            "${as[@]}" kill -INT "$(head -1 "$scratch/$cluster/postmaster.pid")" || true
            for _ in $(seq 100); do [ -e "$scratch/$cluster/postmaster.pid" ] || break; sleep 0.1; done
        fi
    done
    rm -rf "$scratch"
}
trap stop EXIT
say() { printf '%s\n' "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }

# A cluster that no network reaches. Logins other than postgres's take a password, so that the passwords can be tried.
start() {
    local cluster=$1
    "${as[@]}" "$bin/initdb" -D "$scratch/$cluster" -U postgres -A trust --locale=C.UTF-8 -E UTF8 >"$scratch/initdb.log"
    printf 'local all postgres trust\nlocal all clinic_md5 md5\nlocal all all scram-sha-256\n' | "${as[@]}" tee "$scratch/$cluster/pg_hba.conf" >/dev/null
    "${as[@]}" mkdir "$scratch/$cluster.socket"
    "${as[@]}" "$bin/pg_ctl" -D "$scratch/$cluster" -w -l "$scratch/$cluster.log" \
        -o "-c listen_addresses='' -c unix_socket_directories='$scratch/$cluster.socket' -c fsync=off -c wal_level=logical -c timezone=UTC" start >/dev/null
}
sql() { "${as[@]}" psql -X -q -A -t -v ON_ERROR_STOP=1 -h "$scratch/$1.socket" -U postgres -d "$2" "${@:3}"; }
# The dump as text, without the word that newer versions of pg_dump draw by lot for \restrict.
definition() {
    "${as[@]}" "$bin/pg_dump" -h "$scratch/$1.socket" -U postgres --create --exclude-table=old.volunteer_joined_later "$2" |
        grep -a -v '^\\\(un\)\?restrict '
}
row_counts() {
    sql "$1" "$2" <<'SQL'
select format('select %L, count(*) from only %s', oid::regclass, oid::regclass) from pg_class
where relkind = 'r' and relnamespace::regnamespace::text !~ '^(pg_|information_schema)' order by oid::regclass::text \gexec
SQL
}

start raw
start copy
for load in postgres:roles clinic:clinic ledger:ledger; do
    sql raw "${load%%:*}" <"$here/${load##*:}.sql" || fail "${load##*:}.sql does not load"
done
say "loaded on $(sql raw postgres -c 'show server_version')"

# The way there and back. The bootstrap role is in every cluster; but for it everything must restore without an error.
"${as[@]}" "$bin/pg_dumpall" -h "$scratch/raw.socket" -U postgres --globals-only >"$scratch/globals.sql"
grep -v '^CREATE ROLE postgres;$' "$scratch/globals.sql" >"$scratch/globals-but-bootstrap.sql"
sql copy postgres <"$scratch/globals-but-bootstrap.sql" || fail 'the roles do not restore'
for database in clinic ledger; do
    "${as[@]}" "$bin/pg_dump" -h "$scratch/raw.socket" -U postgres -Fc -f "$scratch/$database.dump" "$database"
    "${as[@]}" "$bin/pg_restore" -h "$scratch/copy.socket" -U postgres -d postgres --create --exit-on-error "$scratch/$database.dump" ||
        fail "$database does not restore"
    # In UTF-8 whatever the database's encoding: secrets.txt is.
    "${as[@]}" "$bin/pg_dump" -h "$scratch/raw.socket" -U postgres --create --encoding=UTF8 "$database" >"$scratch/$database.sql"
    # Compared without one table: a child that was attached with INHERIT comes back with its parent's columns first.
    diff <(definition raw "$database") <(definition copy "$database") >"$scratch/$database.diff" ||
        { head -40 "$scratch/$database.diff"; fail "$database does not restore to what it was"; }
    diff <(row_counts raw "$database") <(row_counts copy "$database") || fail "$database has other rows after the restore"
done
say 'restored'

# What is stored as bytes shows as hexadecimal digits in a dump: read as text here.
sql raw clinic >"$scratch/bytes" <<'SQL'
select convert_from(lo_get(number), 'UTF8') from unnest(array[910001, 910003]) as number;
select convert_from(signature, 'UTF8') from shape.bytes;
SQL
# Settings of all roles at once are in no dump: neither pg_dumpall nor pg_dump writes them.
sql raw postgres -c 'select setconfig from pg_db_role_setting where setrole = 0 and setdatabase = 0' >"$scratch/all-roles"
# A password is stored as a verifier: shown to be raw by letting its role in.
lets_in() { "${as[@]}" env PGPASSWORD="$2" psql -X -q -h "$scratch/raw.socket" -U "$1" -d postgres -c 'select' >/dev/null; }
occurs() { LC_ALL=C grep -a -q -F -e "$2" "$scratch/$1"; }
count=0
while IFS='|' read -r database object value; do
    case $database:$object in
    '*:role '*', password') role=${object#role } && lets_in "${role%, password}" "$value" || fail "$object does not let in" ;;
    '*:all roles, '*) occurs all-roles "$value" || fail "$object: no $value" ;;
    '*:'*) occurs globals.sql "$value" || fail "$object: no $value" ;;
    'clinic:large object '* | clinic:shape.bytes.signature) occurs bytes "$value" || fail "$object: no $value" ;;
    clinic:shape.xml_documents.* | clinic:indexed.collation_not_deterministic.*)
        occurs clinic.sql "$value" || say "not on this server: $object" ;;
    *) occurs "$database.sql" "$value" || fail "$object: no $value" ;;
    esac
    count=$((count + 1))
done < <(cat "$here/secrets.txt" "$here/literals.txt")
say "all of $count secrets and literals are in the raw data"
