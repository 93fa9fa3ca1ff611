#!/bin/sh
# Prepares what `make test-rdma` boots: QEMU, a kernel with soft-RoCE, and NIXL, all but QEMU below the directory given.
# Running it again costs nothing when all is there.
#
#   scripts/rdma-guest.sh /var/cache/slurmext-rdma
set -eu
cd "$(dirname "$0")/.."
room=${1:-/var/cache/slurmext-rdma}
venv=${VENV:-.venv}
packages="qemu-system-x86 ibverbs-providers rdma-core busybox-static cpio kmod iproute2"

say() { echo "rdma-guest: $*" >&2; }

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
    *" installed") ;;
    *) missing="$missing $package" ;;
    esac
done
if [ -n "$missing" ]; then
    say "installing$missing"
    # shellcheck disable=SC2086  # words are wanted
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null || {
        apt-get update -q >/dev/null
        # shellcheck disable=SC2086
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >/dev/null
    }
fi
mkdir -p "$room"

if ! ls "$room"/kernel/boot/vmlinuz-* >/dev/null 2>&1; then
    # The distribution's kernel, taken apart and not installed.
    kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    say "fetching $kernel"
    rm -rf "$room/kernel.new" && mkdir -p "$room/kernel.new/deb"
    (cd "$room/kernel.new/deb" && apt-get download -q "$kernel" >/dev/null)
    dpkg-deb -x "$room"/kernel.new/deb/*.deb "$room/kernel.new"
    rm -rf "$room/kernel.new/deb" "$room/kernel" && mv "$room/kernel.new" "$room/kernel"
fi
if [ ! -d "$room/nixl" ]; then
    say "installing NIXL into $room/nixl"
    rm -rf "$room/nixl.new"
    # Without what it depends on: CUDA is not needed to move host memory.
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --target "$room/nixl.new" nixl-cu12
    mv "$room/nixl.new" "$room/nixl"
fi
if [ ! -d "$room/verbs" ]; then
    # NIXL brings a libibverbs without drivers. The distribution's driver is to register with that one, not with its own.
    mkdir -p "$room/verbs.new"
    ln -s "$(find "$room/nixl" -name 'libibverbs-*.so.*' | head -1)" "$room/verbs.new/libibverbs.so.1"
    ln -s "$(find /usr/lib -name 'librxe-rdmav*.so' | head -1)" "$room/verbs.new/"
    mv "$room/verbs.new" "$room/verbs"
fi
