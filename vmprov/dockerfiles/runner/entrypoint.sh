#!/bin/bash
# Entry point of the Vagrant runner: becomes the user who owns the Vagrantfile, then runs the command.
#
#   USER_UID, USER_GID           run as these instead
#   IGNORE_RUN_AS_ROOT=1         allow uid 0
#   IGNORE_MISSING_LIBVIRT_SOCK  say nothing when libvirt's socket is not mounted
#   VAGRANT_VAGRANTFILE          the Vagrantfile's name where it is not "Vagrantfile"
#
# Exit status: 2 for a container started the wrong way, 3 when the user cannot be set up, else the command's.
set -u -o pipefail

vagrant_home=/.vagrant.d
socket=/var/run/libvirt/libvirt-sock
user=vagrant
group=users
vagrantfile=${VAGRANT_VAGRANTFILE:-Vagrantfile}

# Standard output belongs to the command; what this script has to say goes to standard error.
exec 3>&1 1>&2

fail() {
    local code=$1
    shift
    printf 'runner: %s\n' "$@"
    exit "$code"
}

# place: the nearest directory upward that holds the Vagrantfile, else the current one.
place() {
    local here=$PWD
    while [[ ! -e $here/$vagrantfile ]]; do
        if [[ -z $here || $here == / ]]; then
            printf '%s\n' "$PWD"
            return
        fi
        here=${here%/*}
    done
    printf '%s\n' "${here:-/}"
}

# have_group NAME GID: a group of this name with this id, made or changed.
have_group() {
    if getent group "$1" >/dev/null; then
        groupmod -o -g "$2" "$1"
    else
        groupadd -o -g "$2" "$1"
    fi
}

have_user() {
    if getent passwd "$user" >/dev/null; then
        usermod -o -u "$1" -g "$2" -d "$HOME" -s /bin/bash "$user"
    else
        useradd -o -u "$1" -g "$2" -d "$HOME" -s /bin/bash -m "$user"
    fi
}

[[ -d $vagrant_home ]] || fail 2 "$vagrant_home is missing; mount a directory there, such as -v ~/.vagrant.d:$vagrant_home"
case $(stat -c %m "$vagrant_home") in
    /) fail 2 "$vagrant_home is not a mount: boxes and the machine index would be lost; add -v ~/.vagrant.d:$vagrant_home" ;;
esac

project=$(place)
uid=${USER_UID:-$(stat -c %u "$project")} || fail 3 "cannot read the owner of $project"
gid=${USER_GID:-$(stat -c %g "$project")} || fail 3 "cannot read the group of $project"
[[ $uid =~ ^[0-9]+$ && $gid =~ ^[0-9]+$ ]] || fail 2 "USER_UID and USER_GID have to be numbers, not '$uid' and '$gid'"

if [[ ! -S $socket && -z ${IGNORE_MISSING_LIBVIRT_SOCK:-} ]]; then
    printf 'runner: %s\n' \
        "libvirt's socket is not mounted at $socket; without it only a remote libvirt can be used" \
        'set IGNORE_MISSING_LIBVIRT_SOCK=1 if that is meant'
fi

if ((uid == 0)); then
    if [[ ${IGNORE_RUN_AS_ROOT:-0} == 0 ]]; then
        fail 2 "this would run as root, the owner of $project; that is rarely meant" \
            'set IGNORE_RUN_AS_ROOT=1 to allow it, or USER_UID and USER_GID to run as another user'
    fi
    as=()
else
    owner=$(stat -c %u "$vagrant_home") || fail 3 "cannot read the owner of $vagrant_home"
    if ((owner != uid)); then
        [[ -z $(ls -A "$vagrant_home") ]] \
            || fail 2 "$vagrant_home belongs to uid $owner, $project to uid $uid; they have to be the same"
        chown "$uid:$gid" "$vagrant_home" || fail 3 "cannot give $vagrant_home to uid $uid"
    fi
    export USER=$user HOME=/home/$user
    if ((gid != 0)); then
        have_group "$group" "$gid" || fail 3 "cannot set up group $group with gid $gid"
    fi
    have_user "$uid" "$gid" || fail 3 "cannot set up user $user with uid $uid"
    if [[ -S $socket ]]; then
        socket_gid=$(stat -c %g "$socket")
        if ((socket_gid != 0)); then
            have_group libvirt "$socket_gid" || fail 3 "cannot set up the group of $socket"
            usermod -a -G libvirt "$user" || fail 3 "cannot join the group of $socket"
        fi
    fi
    as=(gosu "$user")
fi

(($# > 0)) || set -- vagrant help
exec "${as[@]}" "$@" >&3 3>&-
