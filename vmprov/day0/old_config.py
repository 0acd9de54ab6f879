"""The settings file of the shell scripts that came before, read as data, and what stands in its place here.

Those scripts executed it, as shell and as Ruby. Here nothing in it is executed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from vmprov.documents import MOST_PROBLEMS, read_bytes
from vmprov.errors import SpecError
from vmprov.spec.names import check_name, check_network_name
from vmprov.spec.quantities import format_size, parse_size

_LINE = re.compile(r"\s*(?:export\s+)?(?P<key>[A-Za-z_]\w*)\s*=\s*(?P<value>.*?)\s*")
_QUOTED = re.compile(r"""(?P<quote>["'])(?P<text>(?:(?!(?P=quote)).)*)(?P=quote)\s*(?:\s#.*)?""")
_BARE = re.compile(r"(?P<text>[^\s#\"'`$;|&<>()\\]*)\s*(?:\s#.*)?")
_EXECUTED = re.compile(r"[$`]")
_SYSTEM = "qemu:///system"


@dataclass(frozen=True)
class Remark:
    """Something about a key that has no plain counterpart; ``line`` is 0 for what is about the whole."""

    key: str
    line: int
    text: str


@dataclass(frozen=True)
class Imported:
    """What stands in the place of an old file.

    ``settings``: for the ``[orchestrator]`` table of vmprov.toml. ``environment``: variables. ``options``: of
    ``vmprov create``, as words. ``remarks``: what has no counterpart, and why.
    """

    settings: dict[str, str]
    environment: dict[str, str]
    options: list[str]
    remarks: list[Remark]

    @property
    def command(self) -> list[str]:
        """The command that makes such machines."""
        return ["vmprov", "create", "--count", "1", "--flow", "edge-io", *self.options]

    @property
    def toml(self) -> str:
        """The text of vmprov.toml."""
        lines = ["[orchestrator]", *(f'{key} = "{value}"' for key, value in self.settings.items())]
        lines += [
            f'# {key} = ""' for key in ("project", "username", "ca_file", "connect_to") if key not in self.settings
        ]
        return "\n".join(lines) + "\n"


def import_config(path: Path) -> Imported:
    """Read an old settings file. Raises :class:`SpecError` with every line that cannot be meant."""
    reader = _Reader()
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise SpecError(f"{path}: not UTF-8", hint="this is no text file") from problem
    values = reader.values(text)
    found = reader.imported(values)
    if reader.wrong:
        problems = [f"{path}:{number}: {what}" for number, what in sorted(reader.wrong)]
        raise SpecError("; ".join(problems[:MOST_PROBLEMS]), problems=problems)
    return found


@dataclass
class _Reader:
    wrong: list[tuple[int, str]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def values(self, text: str) -> dict[str, tuple[int, str]]:
        """Key -> line and value; where a key comes twice, the last one counts, as it did."""
        found: dict[str, tuple[int, str]] = {}
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            matched = _LINE.fullmatch(line)
            if not matched:
                self._wrong(number, "neither KEY=value nor a comment")
                continue
            key, written = matched["key"], matched["value"]
            if key in found:
                self.remarks.append(Remark(key, number, f"it is in line {found[key][0]}, too; the last one counts"))
            value = _QUOTED.fullmatch(written) or _BARE.fullmatch(written)
            if _EXECUTED.search(written) and not written.startswith("'"):
                self._wrong(number, f"the value of {key} would be executed; write what it stands for")
            elif value is None:
                self._wrong(number, f"the value of {key} is no plain text")
            else:
                found[key] = (number, value["text"])
        return found

    def imported(self, values: dict[str, tuple[int, str]]) -> Imported:
        """Turn values into what stands in their place."""
        ours = values.get("STANDALONE", (0, "1"))[1] != "0"
        for key, (number, value) in values.items():
            if not value.isprintable():
                self._wrong(number, f"{key} holds characters that cannot be printed")
            elif key in _CONVERTED:
                _CONVERTED[key](self, number, value, ours)
            elif key in _DROPPED:
                self.remarks.append(Remark(key, number, _DROPPED[key]))
            else:
                self.remarks.append(Remark(key, number, "an unknown key; the scripts did not read it either"))
        self.options += ["--image", ""]
        self.remarks.append(
            Remark("", 0, "the number of machines and the flow were arguments: --count N, --flow edge-io or edge-nio")
        )
        self.remarks.append(
            Remark("", 0, "certificates are verified now: give the orchestrator's CA as ca_file if it is a private one")
        )
        return Imported(self.settings, self.environment, self.options, self.remarks)

    def _wrong(self, number: int, what: str) -> None:
        self.wrong.append((number, what))

    def cluster(self, number: int, value: str, _ours: bool) -> None:
        if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?", value):
            self.settings["cluster"] = value
        else:
            self._wrong(number, f"CLUSTER: {value[:60]!r} is not a domain name")

    def memory(self, number: int, value: str, _ours: bool) -> None:
        self._sized("--memory", "RAM_SIZE", number, f"{value}MiB" if value.isdigit() else value)

    def disk(self, number: int, value: str, _ours: bool) -> None:
        self._sized("--disk", "SDA_DISK_SIZE", number, value)

    def _sized(self, option: str, key: str, number: int, value: str) -> None:
        try:
            self.options += [option, format_size(parse_size(value))]
        except ValueError as problem:
            self._wrong(number, f"{key}: {problem}")

    def cpus(self, number: int, value: str, _ours: bool) -> None:
        if re.fullmatch(r"[1-9]\d{0,2}", value):
            self.options += ["--cpus", value]
        else:
            self._wrong(number, f"NO_OF_CPUS: {value[:60]!r} is not a number of CPUs")

    def name(self, number: int, value: str, _ours: bool) -> None:
        if not value:
            return
        allowed = re.sub(r"[^a-z0-9-]", "-", value.lower()).strip("-")
        try:
            self.options += ["--name", check_name(allowed)]
        except ValueError as problem:
            self._wrong(number, f"VM_NAME: {problem}")
            return
        if allowed != value:
            self.remarks.append(Remark("VM_NAME", number, f"names are host names here: {allowed} for {value}"))

    def pool(self, number: int, value: str, ours: bool) -> None:
        if ours or not value:
            if value not in ("", "default"):
                self.remarks.append(Remark("POOL_NAME", number, "the scripts did not read it with STANDALONE=1"))
            return
        self.environment |= {"VMPROV_HOST": _SYSTEM, "VMPROV_POOL": value}

    def network(self, number: int, value: str, ours: bool) -> None:
        if not value:
            return
        try:
            self.options += ["--network", check_network_name(value)]
        except ValueError as problem:
            self._wrong(number, f"BRIDGE_NAME: {problem}")
            return
        self.environment["VMPROV_HOST"] = _SYSTEM
        if ours:
            self.remarks.append(
                Remark("BRIDGE_NAME", number, "the scripts changed this network's options for STANDALONE=1; "
                       "by itself, vmprov uses an existing network as it is")
            )  # fmt: skip


_CONVERTED = {
    "CLUSTER": _Reader.cluster,
    "RAM_SIZE": _Reader.memory,
    "NO_OF_CPUS": _Reader.cpus,
    "SDA_DISK_SIZE": _Reader.disk,
    "VM_NAME": _Reader.name,
    "POOL_NAME": _Reader.pool,
    "BRIDGE_NAME": _Reader.network,
}
_DROPPED = {
    "STANDALONE": "networks and disks are made for each machine and removed with it, unless existing ones are named",
    "LIBVIRT_DRIVER": "whether KVM works is found out; see: vmprov doctor",
    "USERNAME": "the scripts did not read it; a flow takes its secrets from EDGE_USERNAME, a file, or a question",
    "PASSWORD": "the scripts did not read it; a flow takes its secrets from EDGE_PASSWORD, a file, or a question",
    "CI_CONFIG": "not needed: nothing is asked where there is no terminal, machines outlive the command, "
    "and its exit code tells how it went",
    "INTF_NAME": "the scripts did not read it; networks of machines need no interface",
}
