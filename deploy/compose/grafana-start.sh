#!/bin/sh
# Starts Grafana with the password GRAFANA_ADMIN_PASSWORD, or with a password that the first start makes and keeps with Grafana's
# data. Grafana takes the password when it makes its database, and not later: an existing database keeps its password.
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
