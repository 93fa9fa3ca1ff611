#!/bin/sh
# Prepares a fresh Debian or Ubuntu machine: the packages slurmext is built, run and tested with, and .venv with slurmext
# in it. Running it again costs a fraction of a second when nothing is missing.
#
#   scripts/bootstrap.sh         what `make demo` needs
#   scripts/bootstrap.sh test    and what `make test` and `make check` need
#   scripts/bootstrap.sh all     and what `make test-all`, `make docs` and the benchmarks need
#
# PYTHON chooses the interpreter (3.11 or later), VENV another place than .venv.
set -eu
cd "$(dirname "$0")/.."

level=${1:-demo}
venv=${VENV:-.venv}

packages="munge slurmctld slurmd slurm-client libslurm-dev gcc libc6-dev make util-linux procps iproute2"
packages="$packages python3 python3-venv python3-numpy python3-xxhash"
extras=checkpoint
case $level in
demo) ;;
test)
    packages="$packages shellcheck lua5.4"
    extras=dev
    ;;
all)
    packages="$packages shellcheck lua5.4 slurmdbd slurmrestd mariadb-server-core mariadb-client-core postgresql"
    packages="$packages debootstrap debian-archive-keyring rsync fio"
    extras=dev,frameworks
    ;;
*)
    echo "bootstrap.sh: '$level' is none of demo, test, all" >&2
    exit 2
    ;;
esac

say() { echo "bootstrap: $*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "installing packages needs root: run this as root, or install sudo"
        exit 1
    fi
}

install_packages() {
    missing=
    for package in $packages; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
        *" installed") ;;
        *) missing="$missing $package" ;;
        esac
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    # `env` because sudo drops the environment. The lists are refreshed only when the install fails without: it takes long.
    # shellcheck disable=SC2086  # words are wanted
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null 2>&1 || {
        say "refreshing the package lists"
        as_root apt-get update -q >/dev/null
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
    } # errors are on standard error
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    # The system's first: jobs of ordinary users may not be able to run one from somebody's home.
    for candidate in ${PYTHON:-} /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
        if is_recent "$candidate" && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.11 or later with venv: Debian 12, Ubuntu 24.04 and later have it; or set PYTHON"
    return 1
}

make_venv() {
    if ! is_recent "$venv/bin/python"; then
        python=$(find_python)
        say "making $venv with $python"
        "$python" -m venv --clear "$venv"
    fi
    # A stamp of what was asked for: asking pip takes seconds even when it has nothing to do.
    stamp=$venv/.slurmext-$extras
    wanted=$(cksum <pyproject.toml)
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    say "installing slurmext[$extras] into $venv"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --retries 5 -e ".[$extras]"
    echo "$wanted" >"$stamp"
}

if ! command -v apt-get >/dev/null; then
    say "this is no apt system: install the equivalents of: $packages"
else
    install_packages
fi
make_venv
