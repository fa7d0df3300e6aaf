#!/bin/sh
# Installs llm-probe-exporter as a systemd service, or removes it. Run it with --dry-run first to see every command.
#
#   PREFIX (/opt/llm-probe-exporter)            the program, in a Python environment of its own; each run replaces it as a whole
#   /usr/local/lib/systemd/system               the unit; each run replaces it
#   /etc/llm-probe-exporter                     your configuration; an existing file is never changed
#   /etc/systemd/system/….service.d             the drop-ins that --with asks for; an existing file is never changed
#   /var/lib/llm-probe-exporter                 the history of changes and speeds, which the service writes
#
# The installer downloads everything, and checks it against deploy/requirements.lock, before it changes anything.
set -eu
# New files are readable by the service and writable by root alone, whatever the umask of the calling shell.
umask 022

here=$(cd "$(dirname "$0")" && pwd)
name=llm-probe-exporter
prefix=/opt/$name
destdir=
python=python3
wheel=
with=
start=yes
purge=no
dry=no
action=install

usage() {
    cat <<EOF
Usage: install.sh [uninstall] [OPTION]...

  --wheel FILE         install this wheel instead of building one from this checkout
  --with kfd           read facts of AMD GPUs from KFD (added automatically where there is one)
  --with docker        read which servers run in containers (as powerful as root: see docs/deploy-systemd.md)
  --with processes     read the launch settings of servers that run as plain processes
  --with home-cache=U  read the model caches in the home folder of the user U
  --prefix DIR         folder of the program [$prefix]
  --python PROGRAM     Python 3.11 or newer [$python]
  --no-start           neither enable nor start the service
  --destdir DIR        put everything under DIR and start nothing, to build a package
  --purge              with uninstall: remove the configuration, the drop-ins and the history too
  --dry-run            print every command, and run none
EOF
}

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

say() { echo "install.sh: $*"; }

run() {
    if [ "$dry" = yes ]; then
        echo "+ $*"
    else
        "$@"
    fi
}

while [ $# -gt 0 ]; do
    case $1 in
        install | uninstall) action=$1 ;;
        --wheel | --with | --prefix | --python | --destdir)
            [ $# -gt 1 ] || fail "$1 needs a value"
            case $1 in
                --wheel) wheel=$2 ;;
                --with) with="$with $2" ;;
                --prefix) prefix=$2 ;;
                --python) python=$2 ;;
                --destdir) destdir=${2%/} ;;
            esac
            shift
            ;;
        --no-start) start=no ;;
        --purge) purge=yes ;;
        --dry-run) dry=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            fail "unknown argument: $1"
            ;;
    esac
    shift
done

case $prefix in
    /*[!/A-Za-z0-9._-]*) fail "--prefix $prefix: use letters, digits, . _ - only, since it goes into the unit" ;;
    /?*) ;;
    *) fail "--prefix $prefix: use an absolute path" ;;
esac
[ -z "$destdir" ] || start=no
program=$destdir$prefix
configuration=$destdir/etc/$name
unit_folder=$destdir/usr/local/lib/systemd/system
unit=$unit_folder/$name.service
drop_ins=$destdir/etc/systemd/system/$name.service.d
history=$destdir/var/lib/$name
# Where DynamicUser= puts it; $history is then a link.
history_folder=$destdir/var/lib/private/$name

may_change_the_system() {
    [ "$dry" = yes ] || [ -n "$destdir" ] || [ "$(id -u)" = 0 ] || fail "run it as root (or with --dry-run)"
    [ "$start" = no ] || command -v systemctl >/dev/null || fail "there is no systemctl: this machine has no systemd"
}

# A folder is the installer's own only if it is a Python environment with this program in it.
is_ours() { [ -f "$1/pyvenv.cfg" ] && [ -e "$1/bin/$name" ]; }

fetch() {
    wheels=$work/wheels
    say "downloading the packages of deploy/requirements.lock, and checking their hashes"
    run "$python" -m venv "$work/build"
    pip="$work/build/bin/python -m pip --quiet --disable-pip-version-check"
    run $pip download --only-binary=:all: --require-hashes --requirement "$here/../requirements.lock" --dest "$wheels"
    if [ -n "$wheel" ]; then
        run cp "$wheel" "$wheels/"
    else
        say "building the wheel from $(cd "$here/../.." && pwd)"
        run $pip install --only-binary=:all: --require-hashes --requirement "$here/../requirements-build.lock"
        run $pip wheel --no-deps --no-build-isolation --wheel-dir "$wheels" "$here/../.."
    fi
}

# Installs from the downloaded files alone, so that a failing network can't leave half of a program.
make_program() {
    if [ -e "$program" ]; then
        is_ours "$program" || fail "$program exists and is not $name: move it, or choose another folder with --prefix"
    fi
    say "installing into $program"
    run mkdir -p "$(dirname "$program")"
    run "$python" -m venv --clear --without-pip "$program"
    # With --destdir the scripts must name the folder where they will be on the target machine.
    run $pip --python "$program/bin/python" install --no-index --find-links "$wheels" "$name"
    [ -z "$destdir" ] || run sed -i "1s|^#!$destdir|#!|" "$program/bin/$name"
}

put() { # FROM TO MODE: copy a file, if there is none yet
    if [ -e "$2" ]; then
        say "$2 is kept as it is"
    else
        say "writing $2"
        run install -m "$3" "$1" "$2"
    fi
}

configure() {
    run install -d -m 0755 "$configuration" "$unit_folder"
    run install -d -m 0700 "$configuration/keys"
    put "$here/config.yml" "$configuration/config.yml" 0644
    put "$here/environment" "$configuration/environment" 0644
    say "writing $unit"
    run sed "s|/opt/$name|$prefix|g" "$here/$name.service" >"$work/unit"
    run install -m 0644 "$work/unit" "$unit"
}

home_of() { getent passwd "$1" | cut -d: -f6; }

check_drop_ins() {
    case " $with " in
        *" kfd "*) ;;
        *) [ -n "$destdir" ] || [ ! -d /sys/class/kfd/kfd/topology ] || with="$with kfd" ;;
    esac
    for each in $with; do
        case $each in
            kfd | processes) ;;
            docker) [ -n "$destdir" ] || getent group docker >/dev/null || fail "--with docker: there is no group docker" ;;
            home-cache=?*) [ -n "$(home_of "${each#*=}")" ] || fail "--with $each: there is no user ${each#*=}" ;;
            home-cache*) fail "--with home-cache needs a user: home-cache=alice" ;;
            *) fail "--with $each: choose kfd, docker, processes or home-cache=USER" ;;
        esac
    done
}

add_drop_ins() {
    for each in $with; do
        drop_in=${each%%=*}
        run install -d -m 0755 "$drop_ins"
        sed "s|@HOME@|$(home_of "${each#*=}")|g" "$here/$name.service.d/$drop_in.conf" >"$work/$drop_in.conf"
        put "$work/$drop_in.conf" "$drop_ins/$drop_in.conf" 0644
    done
}

begin() {
    [ "$start" = yes ] || return 0
    run systemctl daemon-reload
    run systemctl enable --quiet "$name"
    say "starting $name"
    run systemctl restart "$name" || fail "it did not start: journalctl -u $name says why"
    [ "$dry" = yes ] || say "it runs: http://127.0.0.1:9937/ shows what it found; settings are in $configuration"
}

install_it() {
    "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python must be Python 3.11 or newer with venv (on Debian: apt install python3-venv); else use --python"
    [ -z "$wheel" ] || [ -f "$wheel" ] || fail "--wheel $wheel: there is no such file"
    check_drop_ins
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    fetch
    make_program
    configure
    add_drop_ins
    begin
}

uninstall_it() {
    if [ -z "$destdir" ] && command -v systemctl >/dev/null; then
        run systemctl disable --now --quiet "$name" || say "the service was not running"
    fi
    run rm -f "$unit"
    if is_ours "$program"; then
        run rm -rf "$program"
    elif [ -e "$program" ]; then
        say "$program is not $name: it is not removed"
    fi
    if [ "$purge" = yes ]; then
        run rm -rf "$configuration" "$drop_ins" "$history" "$history_folder"
    else
        say "your settings stay: $configuration, $drop_ins; the history too: $history (--purge removes them)"
    fi
    if [ -z "$destdir" ] && command -v systemctl >/dev/null; then
        run systemctl daemon-reload
    fi
}

may_change_the_system
"${action}_it"
