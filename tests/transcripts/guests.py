"""The guests that are recorded: how the disk of each is made, how QEMU is started, what is done to it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from tests.transcripts.wire import Expect, Reset, Send, Step, Wait

# What the scripts that prepare disks have at hand. The root of our images begins at 5 MiB.
PRELUDE = r"""
fs=/scratch/disk.raw?offset=5242880
image() { qemu-img convert -O raw "/images/$1/disk.qcow2" /scratch/disk.raw; }
blank() { truncate -s 64M /scratch/disk.raw; }
take() { debugfs -R "dump $1 $2" "$fs" 2>/dev/null; }
change() { debugfs -w -f /dev/stdin "${1:-$fs}" 2>&1; }
put() { printf 'cd %s\nrm %s\nwrite %s %s\n' "${2%/*}/" "${2##*/}" "$1" "${2##*/}" | change; }
edit() { take "$1" /tmp/edited; sed -i "$2" /tmp/edited; put /tmp/edited "$1"; }
words() { edit /boot/grub/grub.cfg "s|^\(linux .*\)|\1 $1|"; }
shell() { edit /etc/inittab 's|^::respawn:/bin/terminal ttyS0|ttyS0::respawn:-/bin/sh|'; }
maintenance() {
    hash=$(perl -e 'print crypt("maintenance", "\$6\$transcripts\$")')
    edit /etc/shadow "s|^root:[^:]*:|root:$hash:|"
}
damage() { mke2fs -q -t ext4 "$1"; printf 'clri <2>\nssv state 0\n' | change "$1"; }
initramfs() {
    fetch
    apt-get install -y -qq --no-install-recommends busybox initramfs-tools linux-image-cloud-amd64 >/dev/null 2>&1
    cp /boot/vmlinuz-* kernel
    cp /boot/initrd.img-* initrd
    chmod 0644 kernel initrd
}
fetch() { apt-get update -qq >/dev/null; export DEBIAN_FRONTEND=noninteractive; }
"""

SEABIOS = "seabios"
OVMF = "ovmf"
_SEABIOS = ("-machine", "pc,accel=tcg,graphics=off")
_OVMF = (
    *("-machine", "q35,accel=tcg,graphics=off"),
    *("-drive", "if=pflash,format=raw,unit=0,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd"),
    *("-drive", "if=pflash,format=raw,unit=1,file=/scratch/vars.fd"),
)
_DISK = (
    *("-drive", "file=/scratch/disk.raw,format=raw,if=none,id=disk"),
    *("-device", "virtio-blk-pci,drive=disk,bootindex={order}"),
)
_USER = ("-netdev", "user,id=net")
_TAP = ("-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no")
_NIC = ("-device", "virtio-net-pci,netdev=net,bootindex=1,romfile=")
_NIC_WITH_ROM = ("-device", "virtio-net-pci,netdev=net,bootindex=1")
_DIRECT = ("-kernel", "/scratch/kernel", "-initrd", "/scratch/initrd", "-append")
_NO_PXE = (
    *("-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=no"),
    *("-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=no"),
)
# A network with an address service that knows where to boot from over HTTP.
_NETWORK = """
ip link add br0 type bridge
ip addr add 192.0.2.1/24 dev br0
ip link set br0 up
ip tuntap add tap0 mode tap
ip link set tap0 master br0 up
dnsmasq --conf-file=/dev/null --user=root --port=0 --interface=br0 --bind-interfaces --dhcp-leasefile=/tmp/leases \
    --dhcp-range=192.0.2.50,192.0.2.99 --dhcp-vendorclass=set:http,HTTPClient \
    --dhcp-option-force=tag:http,60,HTTPClient --dhcp-boot=tag:http,http://192.0.2.1:8000/%s
"""


@dataclass(frozen=True)
class Scenario:
    """One recording.

    ``prepare`` makes the disk, with PRELUDE. ``before`` runs where QEMU is, before it. ``served`` -- a directory to be
    served over HTTP at port 8000. ``seed`` -- whether the guest gets a seed, as ``/scratch/seed.iso``.
    """

    name: str
    about: str
    guest: str
    prepare: str
    steps: tuple[Step, ...]
    firmware: str = SEABIOS
    arguments: tuple[str, ...] = ()
    disk_order: int = 2
    memory: int = 512
    before: str = ""
    served: str = ""
    seed: bool = False
    consoles: tuple[int, ...] = (0,)

    def command(self) -> str:
        """The shell script that becomes QEMU."""
        command = ["qemu-system-x86_64", "-cpu", "max", "-m", str(self.memory), "-display", "none", "-nodefaults"]
        command += ["-qmp", "unix:/scratch/control,server=on,wait=off"]
        for console in self.consoles:
            command += ["-chardev", f"socket,id=console{console},path=/scratch/console{console},server=on,wait=on"]
            command += ["-serial", f"chardev:console{console}"]
        command += _OVMF if self.firmware == OVMF else _SEABIOS
        if self.prepare:
            command += [part.format(order=self.disk_order) for part in _DISK]
        if self.seed:
            command += ["-drive", "file=/scratch/seed.iso,format=raw,if=virtio,readonly=on"]
        command += self.arguments
        variables = "cp /usr/share/OVMF/OVMF_VARS_4M.fd /scratch/vars.fd\n"
        return f"umask 0\n{variables}{self.before}\nexec {shlex.join(command)}"


_TINY = "vmprov image tiny"
_DEBIAN = "vmprov image debian-12"
_EMPTY = "an empty disk"
_LOGIN = Expect(b" login: ")
_PROMPT = Expect(b":/# ")
_END = Wait(2)

BOOTS = (
    Scenario("tiny-seabios", "tiny to its login prompt", _TINY, "image tiny", (_LOGIN, _END)),
    Scenario(
        "tiny-ovmf",
        "tiny under UEFI, reset at the login prompt and while the kernel starts",
        _TINY,
        "image tiny",
        (_LOGIN, _END, Reset(), Expect(b"Linux version"), Reset(), _LOGIN, _END),
        OVMF,
    ),
    Scenario(
        "debian-12-seabios-grub",
        "Debian 12 to its login prompt: SeaBIOS, GRUB, systemd, cloud-init",
        _DEBIAN,
        "image debian-12",
        (_LOGIN, Wait(20)),
        arguments=(*_USER, *_NIC),
        memory=1024,
        seed=True,
    ),
    Scenario(
        "debian-12-reset",
        "Debian 12 to its login prompt, reset button, to its login prompt again",
        _DEBIAN,
        "image debian-12",
        (_LOGIN, _END, Reset(), _LOGIN, _END),
        arguments=(*_USER, *_NIC),
        memory=1024,
        seed=True,
    ),
    Scenario(
        "debian-12-no-seed",
        "Debian 12 without a seed: a long silence, a service that fails, and its login prompt",
        _DEBIAN,
        "image debian-12",
        (_LOGIN, _END),
        memory=1024,
    ),
)

FIRMWARE = (
    Scenario(
        "ovmf-no-boot",
        "UEFI finds nothing to boot: its shell, and behind that its boot manager",
        _EMPTY,
        "blank",
        (Expect(b"Shell> "), Wait(5), Send(b"exit\r"), Expect(b"Continue"), Wait(5)),
        OVMF,
    ),
    Scenario(
        "ovmf-shell",
        "UEFI finds nothing to boot and starts its shell; its text mode is set",
        _EMPTY,
        "blank",
        (
            Expect(b"Shell> "),
            _END,
            Send(b"mode 100 31\r"),
            Expect(b"Shell> "),
            _END,
            Send(b"mode 80 25\r"),
            Expect(b"Shell> "),
            _END,
            Send(b"reset\r"),
            Expect(b"Shell> "),
            _END,
        ),
        OVMF,
    ),
    Scenario(
        "ovmf-boot-menu",
        "UEFI waits for a key; Esc leads to its boot manager; a look around",
        _EMPTY,
        "blank",
        (
            Expect(b"\x1b[=3h"),
            Wait(3),
            Send(b"\x1b"),
            Expect(b"Continue"),
            *(_END, Send(b"\x1b[B")) * 2,
            *(_END, Send(b"\r"), Wait(3)),
        ),
        OVMF,
        ("-boot", "menu=on,splash-time=8000"),
    ),
    Scenario(
        "ovmf-pxe-fail",
        "UEFI network boot: an address, but nothing to boot",
        _EMPTY,
        "blank",
        (Expect(b"Shell> ", 300), _END),
        OVMF,
        (*_USER, *_NIC),
    ),
    Scenario(
        "ovmf-ipxe-fail",
        "UEFI with iPXE as the NIC's ROM: an address, but nothing to boot",
        _EMPTY,
        "blank",
        (Expect(b"Nothing to boot"), Expect(b"Start PXE over IPv4"), Wait(10)),
        OVMF,
        (*_USER, *_NIC_WITH_ROM),
    ),
    Scenario(
        "seabios-ipxe-fail",
        "SeaBIOS with iPXE as the NIC's ROM: an address, but nothing to boot",
        _EMPTY,
        "blank",
        (Expect(b"No bootable device"), _END),
        SEABIOS,
        (*_USER, *_NIC_WITH_ROM),
    ),
    Scenario(
        "seabios-ipxe-timeout",
        "SeaBIOS with iPXE: nobody answers on the network",
        _EMPTY,
        "blank",
        (Expect(b"No bootable device", 200), _END),
        SEABIOS,
        ("-netdev", "hubport,id=net,hubid=0", *_NIC_WITH_ROM),
    ),
    Scenario(
        "ipxe-shell",
        "iPXE's command line, entered by Ctrl-B",
        _EMPTY,
        "blank",
        (
            Expect(b"Press Ctrl-B for the iPXE command line"),
            Send(b"\x02"),
            Expect(b"iPXE> "),
            _END,
            Send(b"dhcp\r"),
            Expect(b"iPXE> "),
            Wait(5),
            Send(b"chain http://10.0.2.2:9/nothing.ipxe\r"),
            Expect(b"iPXE> "),
            _END,
        ),
        SEABIOS,
        (*_USER, *_NIC_WITH_ROM),
    ),
    Scenario(
        "ovmf-http-boot",
        "UEFI HTTP boot of GRUB, which starts tiny from the disk",
        _TINY,
        "image tiny; mkdir www; dd if=disk.raw of=esp bs=1M skip=1 count=4;"
        "mcopy -i esp ::EFI/BOOT/BOOTX64.EFI www/boot.efi",
        (_LOGIN, _END),
        OVMF,
        (*_TAP, *_NIC, *_NO_PXE),
        before=_NETWORK % "boot.efi",
        served="/scratch/www",
    ),
    Scenario(
        "ovmf-http-boot-404",
        "UEFI HTTP boot: the server does not have the file",
        _EMPTY,
        "blank; mkdir www",
        (Expect(b"Shell> ", 300), _END),
        OVMF,
        (*_TAP, *_NIC, *_NO_PXE),
        before=_NETWORK % "missing.efi",
        served="/scratch/www",
    ),
)

LOADERS = (
    Scenario(
        "grub-rescue",
        "GRUB cannot find its modules",
        _TINY,
        "image tiny; grub-mkimage -O i386-pc -o core -p '(hd0,msdos2)/nowhere' biosdisk part_msdos ext2;"
        "dd if=core of=disk.raw bs=512 seek=1 conv=notrunc",
        (Expect(b"grub rescue>"), _END, Send(b"ls\r"), Expect(b"grub rescue>"), _END),
    ),
    Scenario(
        "grub-shell",
        "GRUB finds no configuration",
        _TINY,
        "image tiny; echo rm /boot/grub/grub.cfg | change",
        (Expect(b"grub>"), _END, Send(b"ls\r"), Expect(b"grub>"), _END),
    ),
    Scenario(
        "grub-no-kernel",
        "GRUB does not find the kernel",
        _TINY,
        "image tiny; edit /boot/grub/grub.cfg s,/boot/vmlinuz,/boot/missing,",
        (Expect(b"error: "), Wait(15)),
    ),
)

KERNELS = (
    Scenario(
        "kernel-panic-sysrq",
        "a kernel made to panic from a shell",
        _TINY,
        "image tiny; shell",
        (_PROMPT, _END, Send(b"echo c > /proc/sysrq-trigger\r"), Expect(b"end Kernel panic"), _END),
    ),
    Scenario(
        "kernel-panic-reboot",
        "a kernel panic, and a reboot three seconds later (panic=3)",
        _TINY,
        "image tiny; shell; words panic=3",
        (_PROMPT, _END, Send(b"echo c > /proc/sysrq-trigger\r"), Expect(b"Rebooting in"), _PROMPT, _END),
    ),
    Scenario(
        "kernel-panic-no-root",
        "a kernel that cannot mount its root file system",
        _DEBIAN,
        "image debian-12; edit /boot/grub/grub.cfg 's|root=UUID=[^ ]*|root=/dev/nothing|; /^initrd/d'",
        (Expect(b"end Kernel panic"), _END),
    ),
    Scenario(
        "initramfs-shell",
        "Debian's initramfs gives up waiting for the root file system",
        "Debian 12",
        "blank; initramfs",
        (Expect(b"(initramfs)", 200), _END, Send(b"cat /proc/cmdline\r"), Expect(b"(initramfs)"), _END),
        memory=1024,
        arguments=(
            *_DIRECT,
            "root=UUID=5f0c4f4e-0000-4000-8000-000000000000 console=ttyS0,115200 rootdelay=5",
        ),
    ),
    Scenario(
        "initramfs-mount-failed",
        "Debian's initramfs cannot mount the root file system, which is damaged",
        "Debian 12",
        "blank; damage disk.raw; initramfs",
        (Expect(b"(initramfs)", 200), _END),
        memory=1024,
        arguments=(*_DIRECT, "root=/dev/vda console=ttyS0,115200"),
    ),
    Scenario(
        "tiny-no-root",
        "tiny's initramfs gives up waiting for the root file system",
        _TINY,
        "image tiny; edit /boot/grub/grub.cfg 's|root=UUID=[^ ]*|root=UUID=5f0c4f4e-0000-4000-8000-000000000000|'",
        (Expect(b"tiny: no root"), Wait(3)),
    ),
)

SYSTEMS = (
    Scenario(
        "oom-kill",
        "a process takes all memory and is killed",
        _TINY,
        "image tiny; shell",
        (_PROMPT, _END, Send(b"tail /dev/zero\r"), Expect(b"Killed"), _END),
        memory=128,
    ),
    Scenario(
        "disk-full",
        "the disk is full",
        _TINY,
        "image tiny; shell",
        (_PROMPT, _END, Send(b"dd if=/dev/zero of=/fill bs=1M\r"), Expect(b"No space left on device"), _PROMPT, _END),
    ),
    Scenario(
        "poweroff",
        "a guest that powers itself off",
        _TINY,
        "image tiny; shell",
        (_PROMPT, _END, Send(b"poweroff\r"), Expect(b"reboot: Power down"), Wait(1)),
    ),
    Scenario(
        "reboot",
        "a guest that reboots itself",
        _TINY,
        "image tiny; shell",
        (_PROMPT, _END, Send(b"reboot\r"), Expect(b"reboot: Restarting system"), _PROMPT, _END),
    ),
    Scenario(
        "emergency-mode",
        "systemd: a file system of fstab does not appear; root has no password",
        _DEBIAN,
        "image debian-12; echo 'LABEL=nothing /data ext4 defaults,x-systemd.device-timeout=8s 0 2' >/tmp/fstab;"
        "put /tmp/fstab /etc/fstab",
        (Expect(b"Press Enter to continue"), _END, Send(b"\r"), Wait(5)),
        memory=1024,
    ),
    Scenario(
        "fsck-stop",
        "systemd: a file system that fsck does not dare to repair; root has a password",
        _DEBIAN,
        "image debian-12; maintenance; echo '/dev/vdb /data ext4 defaults 0 2' >/tmp/fstab;"
        "put /tmp/fstab /etc/fstab; truncate -s 16M broken; damage broken",
        (Expect(b"Control-D to continue"), _END, Send(b"maintenance\r"), Wait(5)),
        memory=1024,
        arguments=("-drive", "file=/scratch/broken,format=raw,if=virtio"),
    ),
    Scenario(
        "debian-installer",
        "the text user interface of Debian's installer",
        "Debian 12's installer",
        "blank; fetch; cd /tmp;"
        "apt-get download debian-installer-12-netboot-amd64 >/dev/null 2>&1; dpkg-deb -x debian-installer-*.deb d;"
        "cd d/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64; cp linux initrd.gz /scratch/",
        (Expect(b"Select a language"), Wait(3), Send(b"\r"), Expect(b"country", 60), Wait(3), Send(b"\r"), Wait(25)),
        arguments=(
            "-kernel",
            "/scratch/linux",
            "-initrd",
            "/scratch/initrd.gz",
            "-append",
            "console=ttyS0,115200",
            *_USER,
            *_NIC,
        ),
        memory=1024,
    ),
)

SCENARIOS = {scenario.name: scenario for scenario in (*BOOTS, *FIRMWARE, *LOADERS, *KERNELS, *SYSTEMS)}
