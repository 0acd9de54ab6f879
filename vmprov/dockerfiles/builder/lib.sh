# shellcheck shell=bash
# What the recipes share. To be sourced.
#
# A recipe is run as "build-NAME OUT.qcow2". It prints a line "step: ..." before each step, and leaves image.json beside OUT.
# OWNER (uid:gid) gets both files.
set -euo pipefail

# The files that go into guests, beside this one.
files=/usr/local/lib/vmprov
# MBR layout: boot sector, GRUB's core image from sector 1, an EFI system partition from 1 MiB, the root to the end.
esp_start_mib=1
esp_mib=4
root_start_mib=$((esp_start_mib + esp_mib))
consoles="console=tty0 console=ttyS0,115200"

step() {
    printf 'step: %s\n' "$*"
}

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# begin "$@": takes the command line; sets out (the file to make) and work (a scratch directory that goes away).
begin() {
    (($# == 1)) || fail "usage: ${0##*/} OUT.qcow2"
    out=$1
    [[ -d $(dirname "$out") ]] || fail "no directory $(dirname "$out")"
    work=$(mktemp -d)
    trap 'rm -rf --one-file-system "$work"' EXIT
    root=$work/root
    root_uuid=$(uuidgen)
    mkdir "$root"
}

# packages ROOT VARIANT PACKAGE... -- OPTION...: a Debian 12 tree from the package sources of this container.
packages() {
    local tree=$1 variant=$2 wanted=() source sources=()
    shift 2
    while (($# > 0)) && [[ $1 != -- ]]; do
        wanted+=("$1")
        shift
    done
    shift || true
    for source in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources; do
        [[ -s $source ]] && sources+=("$source")
    done
    mmdebstrap --quiet --mode=root --variant="$variant" --include="$(IFS=,; printf '%s' "${wanted[*]}")" \
        --aptopt='Acquire::Languages "none"' --aptopt='Acquire::Retries "3"' \
        "$@" bookworm "$tree" "${sources[@]}"
}

# put MODE FILE TARGET: a file of ours into the guest.
put() {
    install -D -m "$1" "$files/$2" "$root/$3"
}

# grub_config WHAT KERNEL_ARGUMENTS: how the guest boots. Its /boot has to hold vmlinuz and initrd.img.
grub_config() {
    mkdir -p "$root/boot/grub"
    # Under UEFI the firmware's console is on the serial port already.
    cat >"$root/boot/grub/grub.cfg" <<CONFIG
if [ "\$grub_platform" = pc ]; then
    if serial --unit=0 --speed=115200; then
        terminal_input console serial
        terminal_output console serial
    fi
fi
echo 'GRUB: loading $1'
linux /boot/vmlinuz root=UUID=$root_uuid $consoles $2
echo 'GRUB: loading the initramfs'
initrd /boot/initrd.img
echo 'GRUB: starting Linux'
boot
CONFIG
}

# make_disk MIB: the guest's tree as a bootable disk, BIOS and UEFI.
make_disk() {
    local mib=$1 disk=$work/disk
    truncate -s "${mib}M" "$disk"
    sfdisk --quiet "$disk" <<TABLE
label: dos
start=${esp_start_mib}MiB, size=${esp_mib}MiB, type=ef
start=${root_start_mib}MiB, type=83, bootable
TABLE
    # Everything is initialised here, so that no guest has to do it at its first boot.
    mke2fs -q -F -t ext4 -U "$root_uuid" -L root -m 1 -e remount-ro -J size=16 -O '^resize_inode,meta_bg' \
        -E "offset=$((root_start_mib << 20)),lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0" \
        -d "$root" "$disk" "$(((mib - root_start_mib) << 10))k"
    write_boot_loaders "$disk"
    rm -f "$out"
    qemu-img convert -q -f raw -O qcow2 "$disk" "$out"
    rm "$disk"
}

write_boot_loaders() {
    local disk=$1 common=(normal part_msdos ext2 search_fs_uuid serial terminal echo test linux configfile)
    # shellcheck disable=SC2016 # GRUB's variables
    printf 'search.fs_uuid %s root\nset prefix=($root)/boot/grub\n' "$root_uuid" >"$work/grub.cfg"
    grub-mkimage -O i386-pc -o "$work/core.img" -c "$work/grub.cfg" -p /boot/grub biosdisk "${common[@]}"
    (($(stat -c %s "$work/core.img") <= (esp_start_mib << 20) - 512)) || fail "GRUB's core image does not fit"
    # The first 440 bytes only: the partition table follows.
    dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=440 count=1 conv=notrunc status=none
    dd if="$work/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none

    grub-mkimage -O x86_64-efi -o "$work/bootx64.efi" -c "$work/grub.cfg" -p /boot/grub part_gpt "${common[@]}"
    mkfs.fat -C -n ESP "$work/esp" $((esp_mib << 10)) >/dev/null
    mmd -i "$work/esp" ::EFI ::EFI/BOOT
    mcopy -i "$work/esp" "$work/bootx64.efi" ::EFI/BOOT/BOOTX64.EFI
    dd if="$work/esp" of="$disk" bs=1M seek="$esp_start_mib" conv=notrunc,sparse status=none
}

# finish OS SSH_USER LOGIN_PROMPT: image.json, and both files to their owner.
finish() {
    local described
    described=$(dirname "$out")/image.json
    printf '{"os": "%s", "ssh_user": "%s", "login_prompt": "%s", "seed": "nocloud", "virtual_size_bytes": %s}\n' \
        "$1" "$2" "$3" "$(virtual_size)" >"$described"
    chown "${OWNER:-0:0}" "$out" "$described"
}

virtual_size() {
    qemu-img info --output=json "$out" | sed -n 's/^    "virtual-size": \([0-9]*\),*$/\1/p'
}
