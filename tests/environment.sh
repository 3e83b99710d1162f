# Sourced by every script here: where things are. Sets nothing that is set already.

if [ -z "${OFFSHOOT_CACHE:-}" ]; then
    if [ "$(id -u)" = 0 ]; then OFFSHOOT_CACHE=/var/cache/offshoot; else OFFSHOOT_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/offshoot; fi
fi
export OFFSHOOT_CACHE
case ":$PATH:" in
*":$OFFSHOOT_CACHE/tools/bin:"*) ;;
*) PATH="$OFFSHOOT_CACHE/tools/bin:$PATH" ;;
esac
[ -z "${HOME:-}" ] || [ ! -d "$HOME/.cargo/bin" ] || PATH="$HOME/.cargo/bin:$PATH"
export PATH

# Folder with the programs of the newest PostgreSQL that the distribution installed.
newest_postgres() {
    local newest
    newest=$(compgen -G '/usr/lib/postgresql/*/bin' | sort -V | tail -1)
    if [ -n "$newest" ]; then echo "$newest"; else dirname "$(command -v postgres || echo /nowhere/postgres)"; fi
}

# Folder with PostgreSQL 18 from the cache; empty when it could not be had.
postgres18() {
    local found
    found=$(compgen -G "$OFFSHOOT_CACHE/postgresql-18*/bin/pg_dump" | sort -V | tail -1)
    echo "${found%/pg_dump}"
}
