#!/bin/sh
# A container such as rootless runtimes make: its own users, mounts, processes and root, with nothing of the host but
# what is named. `box.sh PLACE:PLACE:... COMMAND...` - the places keep their names and can be written to.
set -e
if [ -z "$BOX" ]; then
    BOX=$(mktemp -d) exec unshare --user --map-root-user --mount --pid --fork --kill-child -- "$0" "$@"
fi
root=$BOX places=$1
shift
mount -t tmpfs none "$root"
for place in usr etc dev; do
    mkdir "$root/$place"
    mount --rbind "/$place" "$root/$place"
done
for name in bin sbin lib lib64; do
    [ -L "/$name" ] && ln -s "usr/$name" "$root/$name"
done
[ -e /usr/bin/squeue ] && mount --bind /dev/null "$root/usr/bin/squeue" # there is no Slurm in a container
mkdir "$root/proc" "$root/tmp"
mount -t proc none "$root/proc"
IFS=:
for place in $places; do
    mkdir -p "$root$place"
    mount --rbind "$place" "$root$place"
done
unset IFS BOX
cwd=$PWD
# shellcheck disable=SC2016  # for the shell inside
exec chroot "$root" sh -c 'cd "$0" && exec "$@"' "$cwd" "$@"
