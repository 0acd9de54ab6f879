"""Each signature has a line that it is for, and one like it that means nothing."""

from __future__ import annotations

import pytest

from vmprov.flows.machine import Machine, watch_only
from vmprov.flows.signatures import shipped_signatures

# class, a line that means it, and lines that look like it.
LINES = [
    (
        "kernel-panic",
        "[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "[    0.0] Command line: panic=10 kernel.panic_on_oops=1",
    ),
    (
        "soft-lockup",
        "[   99.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [swapper/0:1]",
        "[    0.1] watchdog: soft lockup threshold is 20s",
    ),
    (
        "hard-lockup",
        "[   99.0] NMI watchdog: Watchdog detected hard LOCKUP on cpu 1",
        "[    0.1] NMI watchdog: Enabled. Permanently consumes one hw-PMU counter.",
    ),
    (
        "rcu-stall",
        "[  121.1] rcu: INFO: rcu_sched self-detected stall on CPU",
        "[    0.1] rcu: RCU calculated value of scheduler-enlistment delay is 25 jiffies.",
    ),
    (
        "rcu-stall",
        "[  121.1] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:",
        "[    0.1] rcu: INFO: rcu_preempt is the default",
    ),
    (
        "rcu-stall",
        "[   99.1] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... }",
        "[    0.1] rcupdate.rcu_cpu_stall_cputime=1",
    ),
    (
        "kernel-oops",
        "[    7.5] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[    0.0] [Firmware Bug]: TSC_DEADLINE disabled due to Errata",
    ),
    (
        "kernel-oops",
        "[    7.5] BUG: unable to handle page fault for address: ffffffffc0000000",
        "please report this BUG: unable to",
    ),
    ("kernel-oops", "[    7.5] Oops: 0002 [#1] PREEMPT SMP PTI", "[    0.1] Oops messages are sent to the console"),
    (
        "kernel-oops",
        "[    7.5] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
        "[    7.5] traps: foo[12] general protection fault ip:7f00 sp:7ffd error:0 in libc.so.6[7f00+1000]",
    ),
    ("kernel-oops", "[    7.5] Internal error: Oops: 0000000096000004 [#2] SMP", "Internal error [code 2]"),
    ("kernel-bug", "[    7.5] kernel BUG at fs/ext4/inode.c:2721!", "this kernel BUG at home"),
    (
        "kernel-bug",
        "[    7.5] BUG: KASAN: use-after-free in foo+0x1/0x2",
        "[    0.1] kasan: KernelAddressSanitizer initialized",
    ),
    (
        "out-of-memory",
        "[    9.7] Out of memory: Killed process 155 (tail) total-vm:65752kB",
        "[    9.7] Memory cgroup out of memory: Killed process 155 (tail) total-vm:65752kB",
    ),
    (
        "initramfs-shell",
        "Gave up waiting for root file system device.  Common problems:",
        "Begin: Waiting for root file system ... done.",
    ),
    ("initramfs-shell", "ALERT!  UUID=5f0c4f4e-0000 does not exist.  Dropping to a shell!", "ALERT! /dev/sda is fine"),
    (
        "mount-failed",
        "mount: mounting /dev/vda1 on /root failed: No such file or directory",
        "mount: mounting securityfs on /sys/kernel/security failed: No such file or directory",
    ),
    (
        "dracut-timeout",
        "[  190.1] dracut-initqueue[259]: Warning: dracut-initqueue timeout - starting timeout scripts",
        "[    2.1] dracut-initqueue[259]: File descriptor 3 leaked",
    ),
    (
        "dracut-timeout",
        "dracut-initqueue[682]: Warning: dracut-initqueue: timeout, still waiting for following initqueue hooks:",
        "systemd[1]: Starting dracut-initqueue.service - dracut initqueue hook...",
    ),
    ("dracut-timeout", "[  190.1] dracut-initqueue[259]: Warning: Could not boot.", "Warning: Could not bootstrap"),
    (
        "dracut-shell",
        "Entering emergency mode. Exit the shell to continue.",
        "How to avoid Entering emergency mode, a guide",
    ),
    ("fsck-stop", "/dev/vda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.", "/dev/vda1: clean, 11/4096 files"),
    (
        "fsck-stop",
        "The root filesystem on /dev/vda1 requires a manual fsck",
        "The root filesystem on /dev/vda1 is fine",
    ),
    (
        "fsck-stop",
        "[FAILED] Failed to start systemd-fs…m - File System Check on /dev/vdb.",
        "[  OK  ] Finished systemd-fsck@dev-vdb.service - File System Check on /dev/vdb.",
    ),
    (
        "mount-failed",
        "[FAILED] Failed to mount data.mount - /data.",
        "[FAILED] Failed to mount dev-hugepages.mount - Huge Pages File System.",
    ),
    ("mount-failed", "[FAILED] Failed to mount /data.", "[  OK  ] Mounted data.mount - /data."),
    (
        "emergency-mode",
        'You are in emergency mode. After logging in, type "journalctl -xb" to view',
        "[  OK  ] Stopped target emergency.target - Emergency Mode.",
    ),
    (
        "emergency-mode",
        "You are in rescue mode. After logging in",
        "         Starting rescue.service - Rescue Shell...",
    ),
    (
        "emergency-mode",
        "Cannot open access to console, the root account is locked.",
        "passwd: the root account is locked",
    ),
    ("init-died", "[    3.1] systemd[1]: Freezing execution.", "[    3.1] systemd[1]: Starting freezer"),
    (
        "cloud-init",
        "[FAILED] Failed to start cloud-init.service - Cloud-init: Network Stage.",
        "[  OK  ] Finished cloud-init.service - Cloud-init: Network Stage.",
    ),
    (
        "cloud-init",
        "[FAILED] Failed to start Execute cloud user/final scripts.",
        "[FAILED] Failed to start Execute user scripts.",
    ),
    (
        "cloud-init",
        "[FAILED] Failed to start cloud-in…- Initial cloud-init job (pre-networking).",
        "[   11.3] cloud-init[411]: Cloud-init v. 22.4.2 running 'init'",
    ),
    ("disk-full", "dd: error writing '/fill': No space left on device", "dd: 10 MB left on device"),
    ("grub-no-kernel", "error: you need to load the kernel first.", "error: no suitable video mode found."),
    (
        "grub-no-kernel",
        "error: ../../grub-core/loader/i386/linux.c:1088:you need to load the kernel first.",
        "error: no such device: 5f0c4f4e.",
    ),
    ("nothing-to-boot", "No bootable device.  Retrying in 60 seconds.", "Boot failed: not a bootable disk"),
    (
        "secure-boot-refused",
        'BdsDxe: failed to load Boot0002 "UEFI HTTPv4 (MAC:525400F0F83A)" from PciRoot(0x0)/Uri(): Access Denied',
        'BdsDxe: failed to load Boot0002 "UEFI HTTPv4 (MAC:52540064F59A)" from PciRoot(0x0)/Uri(): Not Found',
    ),
    (
        "secure-boot-refused",
        'BdsDxe: failed to start Boot0004 "EFI Internal Shell" from Fv(7CB8BDC9)/FvFile(7C04A583): Security Violation',
        'BdsDxe: failed to start Boot0004 "EFI Internal Shell" from Fv(7CB8BDC9)/FvFile(7C04A583): Not Found',
    ),
    (
        "nothing-to-boot",
        "BdsDxe: No bootable option or device was found.",
        'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x3,0x0): Not Found',
    ),
    ("pxe-error", "  PXE-E16: No valid offer received.", ">>Start PXE over IPv4."),
    (
        "http-boot-error",
        "  Error: Could not retrieve NBP file size from HTTP server.",
        ">>Start HTTP Boot over IPv4.....",
    ),
    ("http-boot-error", "  Error: Server response timeout.", "mysql: Error: Server response timeout"),
    ("http-boot-error", "  Client Error: 404 Not Found", "  NBP filesize is 1024000 Bytes"),
    (
        "ipxe-error",
        "Nothing to boot: No such file or directory (http://ipxe.org/2d03e13b)",
        "iPXE 1.0.0+ -- Open Source Network Boot Firmware -- http://ipxe.org",
    ),
    ("ipxe-error", "No more network devices", "No more network devices are needed"),
]
PROMPTS = [
    ("initramfs-shell", "(initramfs) ", "see (initramfs) there"),
    ("dracut-shell", "dracut:/# ", "root:/# "),
    ("grub-rescue", "grub rescue> ", "grub rescue"),
    ("grub-shell", "grub> ", "grub2 "),
    ("uefi-shell", "Shell> ", "Shell "),
]


def judge(text: str) -> str:
    machine = Machine(watch_only())
    machine.feed(0, 0, text.encode(), 0.0)
    machine.tick(10.0)
    return machine.verdict.failure_class if machine.verdict else ""


@pytest.mark.parametrize(("failure", "line", "like"), LINES)
def test_lines(failure: str, line: str, like: str) -> None:
    assert (judge(line + "\r\n"), judge(like + "\r\n")) == (failure, "")


@pytest.mark.parametrize(("failure", "prompt", "like"), PROMPTS)
def test_prompts(failure: str, prompt: str, like: str) -> None:
    assert (judge(prompt), judge(prompt + "help\r\n"), judge(like)) == (failure, "", "")


def test_every_signature_has_a_line_here() -> None:
    covered = {failure for failure, _, _ in (*LINES, *PROMPTS)}

    assert {one.failure_class for one in shipped_signatures()} == covered
    assert all(one.why.endswith(".") for one in shipped_signatures())


@pytest.mark.parametrize("one", shipped_signatures(), ids=lambda one: one.text or one.regex or one.prompt)
def test_no_signature_is_superfluous(one: object) -> None:
    others = [other for other in shipped_signatures() if other is not one]
    texts = [line + "\r\n" for _, line, _ in LINES] + [prompt for _, prompt, _ in PROMPTS]

    def found(signatures: list) -> list[bool]:
        verdicts = []
        for text in texts:
            machine = Machine(watch_only(), signatures=signatures)
            machine.feed(0, 0, text.encode(), 0.0)
            machine.tick(10.0)
            verdicts.append(machine.verdict is not None)
        return verdicts

    assert not all(found(others))
