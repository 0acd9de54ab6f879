"""Transcripts that no guest here can give: written by hand, or cut out of recorded ones."""

from __future__ import annotations

from collections.abc import Callable

from tests.transcripts import Chunk, Transcript, load

_CLEAR = b"\x1b[2J\x1b[01;01H"
_UEFI = (_CLEAR + b"\x1b[=3h" + _CLEAR) * 2
_GREEN = b"\x1b[1;32m%s\x1b[0m\r\n"
_RED = b"\x1b[1;31m%s\x1b[0m\r\n"
_SERVER = b"https://onboarding.example.test/tink-stack"


class _Script:
    """Bytes put down one after the other."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self._at = 0.0

    def say(self, pause: float, data: bytes, *consoles: int) -> None:
        """After a pause these bytes, on the first UART or on those given."""
        self._at += pause
        self.chunks += [(self._at, console, data) for console in consoles or (0,)]

    def transcript(self, name: str, about: str, consoles: tuple[int, ...]) -> Transcript:
        """The whole."""
        return Transcript(name, about, consoles, self.chunks, made=True)


def torn_prompt() -> Transcript:
    """Lines of the kernel within the prompts of a login."""
    script = _Script()
    script.say(0.1, b"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n")
    script.say(0.2, b"Booting from Hard Disk...\r\nGRUB loading...\r\n")
    script.say(1.5, b"[    0.000000] Linux version 6.1.0-1-amd64 (made up)\r\n")
    script.say(3.0, b"[    2.871911] Run /sbin/init as init process\r\n")
    script.say(6.0, b"[  OK  ] Started getty@tty1.service - Getty on tty1.\r\n")
    script.say(0.5, b"\r\nDebian GNU/Linux 12 debian ttyS0\r\n\r\ndebian log")
    script.say(0.02, b"[   11.204516] IPv6: ADDRCONF(NETDEV_CHANGE): eth0: link becomes ready\r\nin: ")
    script.say(0.1, b"[   11.310102] cloud-init[411]: Cloud-init v. 22.4.2 running 'init'\r\n")
    script.say(20.0, b"\r\nDebian GNU/Linux 12 debian ttyS0\r\n\r\ndebian login: ")
    script.say(2.0, b"root\r\nPass")
    script.say(0.01, b"[   33.501882] random: crng init done\r\n")
    script.say(0.01, b"word: ")
    script.say(0.05, b"[   33.613340] hrtimer: interrupt took 5190200 ns\r\n")
    script.say(60.0, b"\r\nLogin timed out after 60 seconds.\r\n")
    script.say(0.5, b"\r\nDebian GNU/Linux 12 debian ttyS0\r\n\r\ndebian login: ")
    script.say(5.0, b"root\r\n")
    script.say(0.1, b"Password: ")
    script.say(2.0, b"\r\nLinux debian 6.1.0-1-amd64 #1 SMP x86_64\r\n\x1b[?2004hroot@debian:~# ")
    return script.transcript("torn-prompt", "kernel messages within the prompts of a login", (0,))


def reboot_loop() -> Transcript:
    """The start of tiny again and again, each time cut off within the kernel."""
    recorded = load("tiny-seabios")
    length = next(at for at, _, data in recorded.chunks if b"Run /init" in data or at > 4.0) + 0.5
    once = [chunk for chunk in recorded.chunks if chunk[0] < length]
    chunks = [(at + turn * length, console, data) for turn in range(5) for at, console, data in once]
    about = "tiny that starts five times and never comes further than its kernel"
    return Transcript("reboot-loop", about, recorded.consoles, chunks, made=True)


def _firmware(script: _Script) -> None:
    script.say(1.1, _UEFI, 0, 1)
    script.say(
        0.4,
        b'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x2,0x3)/Pci(0x0,0x0): '
        b"Not Found\r\n",
        0,
        1,
    )
    entry = (
        b'Boot0004 "UEFI HTTPv4 (MAC:525400AB12CD)" from PciRoot(0x0)/Pci(0x2,0x0)/Pci(0x0,0x0)/MAC(525400AB12CD,0x1)'
    )
    entry += b"/IPv4(0.0.0.0,0x0,DHCP,0.0.0.0,0.0.0.0,0.0.0.0)/Uri()"
    script.say(0.1, b"\r\n>>Start HTTP Boot over IPv4.", 0, 1)
    for _ in range(4):
        script.say(1.0, b".", 0, 1)
    script.say(0.2, b"\r\n  Station IP address is 192.0.2.77\r\n", 0, 1)
    script.say(0.1, b"\r\n  URI: " + _SERVER + b"/signed_ipxe.efi\r\n  File Size: 1058816 Bytes\r\n", 0, 1)
    for percent in (1, 20, 45, 77, 100):
        script.say(0.2, b"\r  Downloading...%d%%" % percent, 0, 1)
    script.say(0.1, b"BdsDxe: loading " + entry + b"\r\n", 0, 1)
    script.say(0.2, b"BdsDxe: starting " + entry + b"\r\n", 0, 1)


def _ipxe(script: _Script) -> None:
    script.say(
        0.5,
        b"iPXE initialising devices...ok\r\n\r\n\r\n\r\n\x1b[1m\x1b[37m\x1b[40miPXE 1.21.1+ (g988d2)\x1b[0m\x1b[37m"
        b"\x1b[40m -- Open Source Network Boot Firmware -- \x1b[0m\x1b[36m\x1b[40mhttps://ipxe.org\x1b[0m\x1b[37m"
        b"\x1b[40m\r\nFeatures: DNS HTTP HTTPS TFTP EFI Menu\r\n",
    )
    script.say(0.3, b"==== iPXE boot success, chainloading Micro-OS ====\r\n=> Registering with Network\r\n")
    script.say(0.2, b"Configuring (net0 52:54:00:ab:12:cd)......")
    script.say(4.0, b" ok\r\nNetwork Configuration Done\r\n=> Chainloading to Micro-OS download iPXE script\r\n")
    for name in (b"boot.ipxe", b"vmlinuz-x86_64", b"initramfs-x86_64"):
        script.say(0.3, _SERVER + b"/" + name + b"...")
        for percent in (b" 3%", b" 41%", b" 87%"):
            script.say(0.4, percent + b"\x08" * len(percent))
        script.say(0.4, b" ok\r\n")
        if name == b"boot.ipxe":
            script.say(
                0.2, b"Loading the Micro-OS download iPXE script...\r\nStarting to download the Micro-OS image\r\n"
            )
    script.say(0.2, b"The Micro-OS image downloaded successfully, booting into the Micro-OS...\r\n")
    script.say(1.2, b"EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path\r\n")


def _ask(script: _Script, again: bool = False) -> None:
    script.say(1.0 if again else 31.0, b"\r\nProvide Username and password for the IDP\r\n", 0, 1)
    script.say(0.1, b"Username: ", 0, 1)
    script.say(4.0, b"operator\r\n", 1)
    script.say(0.1, b"here-3\r\n", 0)
    script.say(0.1, b"Password: ", 0, 1)
    script.say(3.0, b"\r\n", 1)
    script.say(0.1, b"Username, Password received: Processing\r\n", 0, 1)


def _install(script: _Script) -> None:
    script.say(65.0, _GREEN % b"Secure Boot Status MATCH", 0, 1)
    script.say(1400.0, b"[ 1498.221733] reboot: Restarting system\r\n", 1)
    script.say(1.5, _UEFI, 0, 1)
    device = b'Boot0006 "ubuntu" from HD(15,GPT,6C8C3E3B-0E2B-4F4B-9E0B-7D3A4E6F2A11,0x2800,0x35000)'
    device += b"/\\EFI\\ubuntu\\shimx64.efi\r\n"
    script.say(0.5, b"BdsDxe: loading " + device, 0, 1)
    script.say(0.1, b"BdsDxe: starting " + device, 0, 1)
    script.say(2.0, b"\x1b[0m\x1b[30m\x1b[47mWelcome to GRUB!\n\r\n\r\x1b[0m\x1b[37m\x1b[40m", 0, 1)
    script.say(3.0, b"EFI stub: Loaded initrd from LINUX_EFI_INITRD_MEDIA_GUID device path\r\n", 0, 1)
    script.say(14.0, b"[   12.010344] cloud-init[801]: Cloud-init v. 24.1 running 'init' at Mon, 01 Jan 2024\r\n", 1)
    script.say(9.0, b"\r\nUbuntu 22.04.4 LTS edge-node ttyS1\r\n\r\nedge-node login: ", 1)
    script.say(3.0, b'[   27.551204] audit: type=1400 apparmor="STATUS"\r\n', 1)
    script.say(20.0, b"\r\nUbuntu 22.04.4 LTS edge-node ttyS1\r\n\r\nedge-node login: ", 1)


def edge_io_success() -> Transcript:
    """Interactive onboarding from firmware to the new system, at the second attempt with the credentials."""
    script = _Script()
    _firmware(script)
    _ipxe(script)
    _ask(script)
    script.say(2.0, b"Incorrect username and password provided.\r\n", 0, 1)
    _ask(script, again=True)
    _install(script)
    return script.transcript(
        "edge-io-success", "interactive onboarding, from firmware to the new system's login", (0, 1)
    )


def edge_nio_success() -> Transcript:
    """Onboarding without a word."""
    script = _Script()
    _firmware(script)
    _ipxe(script)
    _install(script)
    return script.transcript(
        "edge-nio-success", "onboarding of a registered machine, to the new system's login", (0, 1)
    )


def edge_nio_fallback() -> Transcript:
    """A machine that should be registered asks for credentials."""
    script = _Script()
    _firmware(script)
    _ipxe(script)
    script.say(44.0, b"\r\nProvide Username and password for the IDP\r\n", 0, 1)
    script.say(0.1, b"Username: ", 0, 1)
    script.say(60.0, b"[  120.118204] hrtimer: interrupt took 4120055 ns\r\n", 1)
    return script.transcript("edge-nio-fallback", "an unregistered machine asks for credentials", (0, 1))


def edge_mismatch() -> Transcript:
    """Secure Boot is not as the profile wants it."""
    script = _Script()
    _firmware(script)
    _ipxe(script)
    _ask(script)
    script.say(65.0, _RED % b"Secure Boot Status MISMATCH", 0, 1)
    script.say(300.0, b"[  420.000113] hrtimer: interrupt took 4120055 ns\r\n", 1)
    return script.transcript("edge-mismatch", "Secure Boot is not as the profile wants it", (0, 1))


def edge_ipxe_gave_up() -> Transcript:
    """IPXE gets no address, ends at its prompt, and is rebooted from there, six times in all."""
    script = _Script()
    for _ in range(6):
        _firmware(script)
        script.say(0.3, b"==== iPXE boot success, chainloading Micro-OS ====\r\n=> Registering with Network\r\n")
        for number in range(1, 6):
            script.say(0.2, b"Configuring (net0 52:54:00:ab:12:cd)......")
            script.say(9.0, b" No configuration methods succeeded (https://ipxe.org/040ee119)\r\n")
            script.say(0.1, b"Unable to obtain the IP address\r\nRETRY NO %d\r\n" % number)
        script.say(0.1, b"Error: Unable to obtain the IP address, even after multiple attempts.\r\n")
        script.say(0.1, b"Retry with UEFI HTTP Boot again.\r\niPXE> ")
        script.say(1.0, b"reboot\r\n")
    return script.transcript(
        "edge-ipxe-gave-up", "iPXE gets no address and ends at its prompt, again and again", (0, 1)
    )


MADE: dict[str, Callable[[], Transcript]] = {
    "torn-prompt": torn_prompt,
    "reboot-loop": reboot_loop,
    "edge-io-success": edge_io_success,
    "edge-nio-success": edge_nio_success,
    "edge-nio-fallback": edge_nio_fallback,
    "edge-mismatch": edge_mismatch,
    "edge-ipxe-gave-up": edge_ipxe_gave_up,
}
