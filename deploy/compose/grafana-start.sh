#!/bin/sh
# Starts Grafana with a password of its own: GRAFANA_ADMIN_PASSWORD, or one that is made at the first start and kept beside
# Grafana's data. Grafana takes it over when it makes its database, and not later: one that exists keeps its password.
set -eu
umask 077
data=${GF_PATHS_DATA:-/var/lib/grafana}
kept=$data/admin-password
if [ -z "${GF_SECURITY_ADMIN_PASSWORD:-}" ]; then
    unset GF_SECURITY_ADMIN_PASSWORD
    if [ ! -e "$data/grafana.db" ] && [ ! -s "$kept" ]; then
        head -c 18 /dev/urandom | base64 | tr '+/' '-_' >"$kept.new"
        [ "$(wc -c <"$kept.new")" -ge 24 ]
        mv "$kept.new" "$kept"
        echo "Grafana's user is admin; the password is in $kept"
    fi
    if [ -s "$kept" ]; then
        GF_SECURITY_ADMIN_PASSWORD=$(cat "$kept")
        export GF_SECURITY_ADMIN_PASSWORD
    fi
fi
exec "$@"
