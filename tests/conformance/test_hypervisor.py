"""What every hypervisor promises: the fake ones, and libvirt where VMPROV_TEST_LIBVIRT_URI names one.

The real one needs a storage pool called ``default``. Its machines have 64 MiB, no disk and no system; everything
is named at random and removed at the end of each test.
"""

from __future__ import annotations

import os
import secrets
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from vmprov.errors import Failed, HostNotReady, LibvirtFailed, NameTaken, VmprovError
from vmprov.firmware import STORE_SIZE, choose_loader, variable_store
from vmprov.hypervisor import Domain, DomainState, Hypervisor, Mark, Network, Volume, foreign
from vmprov.hypervisor.definitions import find_note, mark_element
from vmprov.hypervisor.fake import FakeHypervisor
from vmprov.hypervisor.hardware import with_cpus
from vmprov.waiting import Deadline, wait_until

POOL = "default"
MARK = Mark(installation="test", lab='lab "a" <&>', vm="münchen-1")


def names(objects: Sequence[Domain | Network | Volume]) -> set[str]:
    """The objects' names."""
    return {thing.name for thing in objects}


def _real(_directory: Path) -> Hypervisor:
    uri = os.environ.get("VMPROV_TEST_LIBVIRT_URI", "")
    if not uri:
        pytest.skip("VMPROV_TEST_LIBVIRT_URI names no libvirt")
    from vmprov.hypervisor.libvirt import LibvirtHypervisor

    return LibvirtHypervisor(uri)


KINDS: dict[str, Callable[[Path], Hypervisor]] = {
    "fake in memory": lambda _directory: FakeHypervisor(),
    "fake in a file": lambda directory: FakeHypervisor(directory / "world.json"),
    "libvirt": _real,
}


@pytest.fixture(params=[*list(KINDS)[:2], pytest.param("libvirt", marks=[pytest.mark.docker, pytest.mark.e2e])])
def hypervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hypervisor]:
    opened = KINDS[request.param](tmp_path)
    yield opened
    opened.close()


@dataclass(frozen=True)
class Names:
    """Names, MACs and subnets that belong to one test; bridge names stay below 15 bytes."""

    prefix: str
    number: int

    def __call__(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def subnet(self, position: int = 0) -> IPv4Network:
        return IPv4Network(f"10.253.{self.number}.{16 * position}/28")

    @property
    def mac(self) -> str:
        return f"52:54:00:fd:{self.number:02x}:01"


@pytest.fixture
def own(hypervisor: Hypervisor) -> Iterator[Names]:
    own = Names(f"vt{secrets.token_hex(3)}", secrets.randbelow(250))
    yield own
    for domain in filter(lambda name: name.startswith(own.prefix), names(hypervisor.domains())):
        hypervisor.remove_domain(domain)
    for network in filter(lambda name: name.startswith(own.prefix), names(hypervisor.networks())):
        hypervisor.remove_network(network)
    for volume in filter(lambda name: name.startswith(own.prefix), names(hypervisor.volumes(POOL))):
        hypervisor.remove_volume(POOL, volume)


def domain_xml(
    name: str, *, identity: str = "", mark: Mark | None = MARK, network: str = "", mac: str = "", disk: str = ""
) -> str:
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "uuid").text = identity or str(uuid.uuid4())
    ET.SubElement(domain, "metadata").extend([mark_element(mark)] if mark else [])
    ET.SubElement(domain, "memory", unit="MiB").text = "64"
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type", arch="x86_64").text = "hvm"
    ET.SubElement(system, "boot", dev="network")
    devices = ET.SubElement(domain, "devices")
    if disk:
        drive = ET.SubElement(devices, "disk", type="file", device="disk")
        ET.SubElement(drive, "source", file=disk)
        ET.SubElement(drive, "target", dev="vda", bus="virtio")
    if network:
        interface = ET.SubElement(devices, "interface", type="network")
        ET.SubElement(interface, "mac", address=mac)
        ET.SubElement(interface, "source", network=network)
        ET.SubElement(interface, "model", type="virtio")
    return ET.tostring(domain, encoding="unicode")


def uefi(definition: str, loader: str, nvram: str) -> str:
    domain = ET.fromstring(definition)
    system = domain.find("os")
    kind = domain.find("os/type")
    assert system is not None
    assert kind is not None
    kind.set("machine", "q35")
    ET.SubElement(system, "loader", readonly="yes", type="pflash").text = loader
    ET.SubElement(system, "nvram").text = nvram
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    return ET.tostring(domain, encoding="unicode")


def network_xml(
    name: str, *, subnet: IPv4Network, bridge: str = "", identity: str = "", mark: Mark | None = MARK
) -> str:
    first, second, last = str(subnet[1]), str(subnet[2]), str(subnet[-2])
    network = ET.Element("network")
    ET.SubElement(network, "name").text = name
    ET.SubElement(network, "uuid").text = identity or str(uuid.uuid4())
    ET.SubElement(network, "metadata").extend([mark_element(mark)] if mark else [])
    ET.SubElement(network, "bridge", name=bridge or name)
    ip = ET.SubElement(network, "ip", address=first, netmask=str(subnet.netmask))
    ET.SubElement(ET.SubElement(ip, "dhcp"), "range", start=second, end=last)
    return ET.tostring(network, encoding="unicode")


def together(*actions: Callable[[], object]) -> list[object]:
    """Results or errors of actions that run at the same time, each in a thread of its own."""

    def attempt(action: Callable[[], object]) -> object:
        try:
            return action()
        except VmprovError as problem:
            return type(problem)

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(attempt, actions))


def named(found: list[Domain] | list[Network], name: str) -> list[Domain | Network]:
    return [thing for thing in found if thing.name == name]


# the host


def test_the_node_has_cpus_and_no_more_free_memory_than_memory(hypervisor: Hypervisor) -> None:
    node = hypervisor.node()

    assert node.cpus > 0
    assert 0 < node.free_memory <= node.memory
    assert len(node.libvirt.split(".")) == 3
    assert len(node.qemu.split(".")) == 3


def test_closing_twice_is_the_same_as_once(hypervisor: Hypervisor) -> None:
    hypervisor.close()
    hypervisor.close()


# domains


def test_a_domain_that_does_not_exist_is_missing_and_has_no_addresses(hypervisor: Hypervisor, own: Names) -> None:
    assert hypervisor.domain(own("a")) == Domain(own("a"), "", DomainState.MISSING, None)
    assert hypervisor.domain_addresses(own("a"), own.mac) == []


@pytest.mark.parametrize("action", ["start_domain", "shutdown_domain", "reboot_domain", "reset_domain", "domain_xml"])
def test_using_a_domain_that_does_not_exist_is_refused(hypervisor: Hypervisor, own: Names, action: str) -> None:
    with pytest.raises(LibvirtFailed, match=own("a")):
        getattr(hypervisor, action)(own("a"))


def test_powering_off_a_domain_that_does_not_exist_is_fine(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.power_off_domain(own("a"))


def test_a_defined_domain_is_stopped_and_carries_its_uuid_and_mark(hypervisor: Hypervisor, own: Names) -> None:
    identity = str(uuid.uuid4())

    defined = hypervisor.define_domain(domain_xml(own("a"), identity=identity))

    assert defined == Domain(own("a"), identity, DomainState.STOPPED, MARK)
    assert hypervisor.domain(own("a")) == defined
    assert named(hypervisor.domains(), own("a")) == [defined]


def test_a_domain_without_our_mark_is_foreign(hypervisor: Hypervisor, own: Names) -> None:
    defined = hypervisor.define_domain(domain_xml(own("a"), mark=None))

    assert defined.mark is None
    assert foreign(defined.mark, "test")


def test_the_definition_can_be_read_back(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))

    assert ET.fromstring(hypervisor.domain_xml(own("a"))).findtext("name") == own("a")


@pytest.mark.parametrize("running", [False, True])
def test_a_note_stays_with_a_domain_beside_its_mark(hypervisor: Hypervisor, own: Names, running: bool) -> None:
    defined = hypervisor.define_domain(domain_xml(own("a")))
    assert find_note(ET.fromstring(hypervisor.domain_definition(own("a")))) == ""
    if running:
        hypervisor.start_domain(own("a"))

    hypervisor.annotate_domain(own("a"), "first")
    hypervisor.annotate_domain(own("a"), '{"who": "<Jörg & \'Söhne\'>"}')

    for told in (hypervisor.domain_definition(own("a")), hypervisor.domain_xml(own("a"))):
        assert find_note(ET.fromstring(told)) == '{"who": "<Jörg & \'Söhne\'>"}'
    assert hypervisor.domain(own("a")).mark == defined.mark == MARK


def test_a_note_outlives_a_power_cycle_and_a_changed_definition(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    hypervisor.start_domain(own("a"))
    hypervisor.annotate_domain(own("a"), "kept")

    hypervisor.power_off_domain(own("a"))
    hypervisor.define_domain(with_cpus(hypervisor.domain_definition(own("a")), 2))
    hypervisor.start_domain(own("a"))

    assert find_note(ET.fromstring(hypervisor.domain_xml(own("a")))) == "kept"


def test_redefining_a_domain_under_its_uuid_changes_it(hypervisor: Hypervisor, own: Names) -> None:
    identity = str(uuid.uuid4())
    hypervisor.define_domain(domain_xml(own("a"), identity=identity, mark=None))

    hypervisor.define_domain(domain_xml(own("a"), identity=identity))

    assert hypervisor.domain(own("a")).mark == MARK


def test_a_second_domain_of_the_same_name_is_refused(hypervisor: Hypervisor, own: Names) -> None:
    first = hypervisor.define_domain(domain_xml(own("a")))

    with pytest.raises(LibvirtFailed, match=own("a")):
        hypervisor.define_domain(domain_xml(own("a")))

    assert hypervisor.domain(own("a")) == first


@pytest.mark.parametrize("xml", ["", "<domain", "<network><name>a</name></network>", "<domain type='qemu'/>"])
def test_what_is_no_definition_of_a_domain_is_refused(hypervisor: Hypervisor, xml: str) -> None:
    with pytest.raises(LibvirtFailed):
        hypervisor.define_domain(xml)


def test_a_renamed_domain_is_the_same_under_its_new_name(hypervisor: Hypervisor, own: Names) -> None:
    identity = str(uuid.uuid4())
    hypervisor.define_domain(domain_xml(own("a"), identity=identity))

    renamed = hypervisor.rename_domain(own("a"), own("b"))

    assert renamed == hypervisor.domain(own("b")) == Domain(own("b"), identity, DomainState.STOPPED, MARK)
    assert hypervisor.domain(own("a")).state is DomainState.MISSING
    assert ET.fromstring(hypervisor.domain_definition(own("b"))).findtext("name") == own("b")
    hypervisor.start_domain(own("b"))
    assert hypervisor.domain(own("b")).state is DomainState.RUNNING


def test_a_running_domain_is_not_renamed(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    hypervisor.start_domain(own("a"))

    with pytest.raises(LibvirtFailed, match=own("a")):
        hypervisor.rename_domain(own("a"), own("b"))

    assert hypervisor.domain(own("a")).state is DomainState.RUNNING
    assert hypervisor.domain(own("b")).state is DomainState.MISSING


def test_a_domain_does_not_get_the_name_of_another(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    there = hypervisor.define_domain(domain_xml(own("b")))

    with pytest.raises(NameTaken, match=own("b")):
        hypervisor.rename_domain(own("a"), own("b"))

    assert hypervisor.domain(own("b")) == there
    assert hypervisor.domain(own("a")).state is DomainState.STOPPED


def test_a_domain_that_does_not_exist_is_not_renamed(hypervisor: Hypervisor, own: Names) -> None:
    with pytest.raises(LibvirtFailed, match=own("a")):
        hypervisor.rename_domain(own("a"), own("b"))


def test_starting_a_running_domain_leaves_it_running(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))

    hypervisor.start_domain(own("a"))
    hypervisor.start_domain(own("a"))

    assert hypervisor.domain(own("a")).state is DomainState.RUNNING


def test_a_domain_whose_network_does_not_exist_does_not_start(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a"), network=own("none"), mac=own.mac))

    with pytest.raises(LibvirtFailed, match=own("a")):
        hypervisor.start_domain(own("a"))

    assert hypervisor.domain(own("a")).state is DomainState.STOPPED


def test_a_domain_whose_disk_does_not_exist_does_not_start(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a"), disk=f"/nowhere/{own('disk')}"))

    with pytest.raises(LibvirtFailed, match=own("a")):
        hypervisor.start_domain(own("a"))

    assert hypervisor.domain(own("a")).state is DomainState.STOPPED


def test_a_domain_with_a_volume_of_ours_starts(hypervisor: Hypervisor, own: Names) -> None:
    disk = hypervisor.create_volume(POOL, own("disk"), size=2**20, format="raw").path
    hypervisor.define_domain(domain_xml(own("a"), disk=disk))

    hypervisor.start_domain(own("a"))

    assert hypervisor.domain(own("a")).state is DomainState.RUNNING


def test_a_running_domain_can_be_reset_and_rebooted(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    hypervisor.start_domain(own("a"))

    hypervisor.reset_domain(own("a"))
    hypervisor.reboot_domain(own("a"))

    assert hypervisor.domain(own("a")).state is DomainState.RUNNING


@pytest.mark.parametrize("action", ["reboot_domain", "reset_domain"])
def test_a_stopped_domain_cannot_be_rebooted(hypervisor: Hypervisor, own: Names, action: str) -> None:
    hypervisor.define_domain(domain_xml(own("a")))

    with pytest.raises(LibvirtFailed, match="not running"):
        getattr(hypervisor, action)(own("a"))


@pytest.mark.parametrize("action", ["shutdown_domain", "power_off_domain"])
def test_stopping_a_stopped_domain_is_fine(hypervisor: Hypervisor, own: Names, action: str) -> None:
    hypervisor.define_domain(domain_xml(own("a")))

    getattr(hypervisor, action)(own("a"))

    assert hypervisor.domain(own("a")).state is DomainState.STOPPED


def test_a_domain_that_was_powered_off_starts_again(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    hypervisor.start_domain(own("a"))

    hypervisor.power_off_domain(own("a"))
    off = hypervisor.domain(own("a")).state
    hypervisor.start_domain(own("a"))

    assert off is DomainState.STOPPED
    assert hypervisor.domain(own("a")).state is DomainState.RUNNING


def test_removing_a_running_domain_twice_finds_it_gone(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    hypervisor.start_domain(own("a"))

    assert hypervisor.remove_domain(own("a")) is True
    assert hypervisor.domain(own("a")).state is DomainState.MISSING
    assert hypervisor.remove_domain(own("a")) is False


def test_removing_a_domain_leaves_its_volume_and_network(hypervisor: Hypervisor, own: Names) -> None:
    network = hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))
    disk = hypervisor.create_volume(POOL, own("disk"), size=2**20)
    hypervisor.define_domain(domain_xml(own("a"), network=network.name, mac=own.mac, disk=disk.path))

    hypervisor.remove_domain(own("a"))

    assert hypervisor.volume(POOL, own("disk")) == disk
    assert named(hypervisor.networks(), own("net")) == [network]


def test_removing_our_domain_leaves_others(hypervisor: Hypervisor, own: Names) -> None:
    other = hypervisor.define_domain(domain_xml(own("other"), mark=None))
    hypervisor.define_domain(domain_xml(own("a")))

    hypervisor.remove_domain(own("a"))

    assert hypervisor.domain(own("other")) == other


def test_a_machine_that_asks_for_an_address_gets_one_of_its_network(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))
    hypervisor.define_domain(domain_xml(own("a"), network=own("net"), mac=own.mac))
    before = hypervisor.domain_addresses(own("a"), own.mac)

    hypervisor.start_domain(own("a"))
    found = wait_until(
        lambda: hypervisor.domain_addresses(own("a"), own.mac.upper()), Deadline(60), "address for the machine"
    )

    assert before == []
    assert IPv4Network(found[0]).subnet_of(own.subnet())


def test_removing_a_uefi_machine_takes_its_variables_away(hypervisor: Hypervisor, own: Names, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(variable_store())
    store = hypervisor.upload_volume(POOL, own("nvram"), tmp_path / "store", format="raw", capacity=STORE_SIZE)
    loader = choose_loader(hypervisor.loaders(), secure=False, host="test")
    hypervisor.define_domain(uefi(domain_xml(own("a")), loader, store.path))
    hypervisor.start_domain(own("a"))

    hypervisor.remove_domain(own("a"))

    assert own("nvram") not in names(hypervisor.volumes(POOL))
    assert hypervisor.remove_volume(POOL, own("nvram")) is False


def test_variables_that_went_with_their_machine_can_be_removed_again(
    hypervisor: Hypervisor, own: Names, tmp_path: Path
) -> None:
    (tmp_path / "store").write_bytes(variable_store())
    store = hypervisor.upload_volume(POOL, own("nvram"), tmp_path / "store", format="raw", capacity=STORE_SIZE)
    loader = choose_loader(hypervisor.loaders(), secure=False, host="test")
    hypervisor.define_domain(uefi(domain_xml(own("a")), loader, store.path))
    hypervisor.start_domain(own("a"))
    hypervisor.remove_domain(own("a"))

    hypervisor.remove_volume(POOL, own("nvram"))
    assert hypervisor.volume(POOL, own("nvram")) is None


def test_there_is_firmware_with_and_without_secure_boot(hypervisor: Hypervisor) -> None:
    loaders = hypervisor.loaders()

    assert choose_loader(loaders, secure=True, host="test") != choose_loader(loaders, secure=False, host="test")


def test_a_definition_shows_no_password(hypervisor: Hypervisor, own: Names) -> None:
    definition = ET.fromstring(domain_xml(own("a")))
    devices = definition.find("devices")
    assert devices is not None
    ET.SubElement(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1", passwd="hush")
    hypervisor.define_domain(ET.tostring(definition, encoding="unicode"))

    assert "graphics" in hypervisor.domain_xml(own("a"))
    assert "hush" not in hypervisor.domain_xml(own("a"))


# networks


def test_a_created_network_is_active_with_its_bridge_subnet_and_mark(hypervisor: Hypervisor, own: Names) -> None:
    created = hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(), bridge=own("br")))

    assert created == Network(own("net"), own("br"), True, (own.subnet(),), MARK)
    assert named(hypervisor.networks(), own("net")) == [created]


def test_one_network_is_found_by_its_name(hypervisor: Hypervisor, own: Names) -> None:
    created = hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(0), bridge=own("br")))

    assert hypervisor.network(own("net")) == created
    assert hypervisor.network(own("b")) is None


def test_a_network_whose_name_is_taken_is_refused(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(0)))

    with pytest.raises(NameTaken, match=own("net")):
        hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(1), bridge=own("br")))


def test_a_network_that_exists_is_not_redefined_even_under_its_uuid(hypervisor: Hypervisor, own: Names) -> None:
    identity = str(uuid.uuid4())
    theirs = hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(0), identity=identity, mark=None))

    with pytest.raises(NameTaken, match=own("net")):
        hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(1), identity=identity))

    assert named(hypervisor.networks(), own("net")) == [theirs]


def test_a_network_whose_bridge_is_taken_is_refused_and_leaves_nothing(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(0), bridge=own("br")))

    with pytest.raises(NameTaken, match=own("br")):
        hypervisor.create_network(network_xml(own("b"), subnet=own.subnet(1), bridge=own("br")))

    assert named(hypervisor.networks(), own("b")) == []


@pytest.mark.parametrize("larger_by", [0, 2])
def test_a_network_whose_subnet_overlaps_another_is_refused(hypervisor: Hypervisor, own: Names, larger_by: int) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))

    with pytest.raises(NameTaken, match="subnet"):
        hypervisor.create_network(network_xml(own("b"), subnet=own.subnet().supernet(larger_by)))

    assert named(hypervisor.networks(), own("b")) == []


@pytest.mark.parametrize("xml", ["", "<network", "<domain><name>a</name></domain>", "<network/>"])
def test_what_is_no_definition_of_a_network_is_refused(hypervisor: Hypervisor, xml: str) -> None:
    with pytest.raises(LibvirtFailed):
        hypervisor.create_network(xml)


def test_the_definition_of_a_network_can_be_read_back(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(), bridge=own("br")))

    definition = ET.fromstring(hypervisor.network_xml(own("net")))

    assert definition.findtext("name") == own("net")
    assert [bridge.get("name") for bridge in definition.iterfind("bridge")] == [own("br")]


@pytest.mark.parametrize("question", ["network_xml", "network_definition", "network_leases"])
def test_asking_for_a_network_that_does_not_exist_is_refused(hypervisor: Hypervisor, own: Names, question: str) -> None:
    with pytest.raises(LibvirtFailed, match=own("net")):
        getattr(hypervisor, question)(own("net"))


def test_a_network_knows_the_address_that_it_gave_to_a_machine(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))
    hypervisor.define_domain(domain_xml(own("a"), network=own("net"), mac=own.mac))
    before = hypervisor.network_leases(own("net"))

    hypervisor.start_domain(own("a"))
    (lease,) = wait_until(lambda: hypervisor.network_leases(own("net")), Deadline(60), "lease")

    assert before == []
    assert lease.mac == own.mac
    assert [lease.address] == hypervisor.domain_addresses(own("a"), own.mac)


def lengthened(definition: str) -> str:
    """The definition with something else in it that libvirt keeps."""
    network = ET.fromstring(definition)
    ET.SubElement(network, "domain", name="other.test", localOnly="yes")
    return ET.tostring(network, encoding="unicode")


def test_a_network_can_be_changed_and_changed_back_to_the_byte(hypervisor: Hypervisor, own: Names) -> None:
    made = hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))
    before = hypervisor.network_definition(own("net"))

    assert hypervisor.redefine_network(lengthened(before)) is True
    changed = hypervisor.network_xml(own("net"))
    assert hypervisor.redefine_network(before) is True

    assert ET.fromstring(changed).find("domain[@name='other.test']") is not None
    assert hypervisor.network_definition(own("net")) == before
    assert named(hypervisor.networks(), own("net")) == [made]


def test_a_network_is_not_restarted_under_a_running_machine(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))
    before = hypervisor.network_definition(own("net"))
    hypervisor.define_domain(domain_xml(own("a"), network=own("net"), mac=own.mac))
    hypervisor.start_domain(own("a"))

    assert hypervisor.redefine_network(lengthened(before)) is False
    assert "other.test" in hypervisor.network_definition(own("net"))
    hypervisor.power_off_domain(own("a"))
    assert hypervisor.redefine_network(before) is True


def test_changing_a_network_that_does_not_exist_is_refused(hypervisor: Hypervisor, own: Names) -> None:
    with pytest.raises(LibvirtFailed, match=own("net")):
        hypervisor.redefine_network(network_xml(own("net"), subnet=own.subnet()))


def test_removing_a_network_twice_finds_it_gone(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))

    assert hypervisor.remove_network(own("net")) is True
    assert named(hypervisor.networks(), own("net")) == []
    assert hypervisor.remove_network(own("net")) is False


def test_name_bridge_and_subnet_of_a_removed_network_are_free_again(hypervisor: Hypervisor, own: Names) -> None:
    first = hypervisor.create_network(network_xml(own("net"), subnet=own.subnet()))
    hypervisor.remove_network(own("net"))

    assert hypervisor.create_network(network_xml(own("net"), subnet=own.subnet())) == first


def test_removing_our_network_leaves_others(hypervisor: Hypervisor, own: Names) -> None:
    other = hypervisor.create_network(network_xml(own("other"), subnet=own.subnet(1), mark=None))
    hypervisor.create_network(network_xml(own("net"), subnet=own.subnet(0)))

    hypervisor.remove_network(own("net"))

    assert other.mark is None
    assert named(hypervisor.networks(), own("other")) == [other]


# storage


def test_a_pool_has_a_path_and_no_more_room_than_it_is_large(hypervisor: Hypervisor) -> None:
    pool = hypervisor.pool(POOL)

    assert pool.name == POOL
    assert pool.path.startswith("/")
    assert 0 < pool.available <= pool.capacity


def test_a_pool_that_does_not_exist_is_named(hypervisor: Hypervisor, own: Names) -> None:
    with pytest.raises(HostNotReady, match=own("pool")):
        hypervisor.pool(own("pool"))


def test_creating_a_pool_that_exists_changes_nothing(hypervisor: Hypervisor) -> None:
    pool = hypervisor.pool(POOL)

    assert hypervisor.create_pool(POOL, pool.path).path == pool.path


def test_a_pool_that_exists_elsewhere_is_refused(hypervisor: Hypervisor) -> None:
    with pytest.raises(NameTaken, match=POOL):
        hypervisor.create_pool(POOL, "/somewhere/else")


def test_a_volume_that_does_not_exist_is_none_and_gone_already(hypervisor: Hypervisor, own: Names) -> None:
    assert hypervisor.volume(POOL, own("v")) is None
    assert hypervisor.remove_volume(own("no pool"), own("v")) is False


@pytest.mark.parametrize("format", ["qcow2", "raw"])
def test_a_new_volume_has_its_size_and_is_almost_empty(hypervisor: Hypervisor, own: Names, format: str) -> None:
    created = hypervisor.create_volume(POOL, own("v"), size=2**30, format=format)

    assert created.capacity == 2**30
    assert created.allocation < 2**20
    assert created.path == f"{hypervisor.pool(POOL).path}/{own('v')}"
    assert hypervisor.volume(POOL, own("v")) == created
    assert created in hypervisor.volumes(POOL)


def test_an_overlay_can_be_larger_than_its_backing_file(hypervisor: Hypervisor, own: Names) -> None:
    base = hypervisor.create_volume(POOL, own("base"), size=2**20)

    overlay = hypervisor.create_volume(POOL, own("v"), size=2**30, backing=base.path)

    assert overlay.capacity == 2**30
    assert overlay.allocation < 2**20


def test_an_overlay_over_nothing_is_refused_and_leaves_nothing(hypervisor: Hypervisor, own: Names) -> None:
    with pytest.raises(LibvirtFailed, match=own("v")):
        hypervisor.create_volume(POOL, own("v"), size=2**30, backing=f"/nowhere/{own('base')}")

    assert hypervisor.volume(POOL, own("v")) is None


def test_a_volume_whose_name_is_taken_is_refused_and_stays(hypervisor: Hypervisor, own: Names) -> None:
    first = hypervisor.create_volume(POOL, own("v"), size=2**20)

    with pytest.raises(NameTaken, match=own("v")):
        hypervisor.create_volume(POOL, own("v"), size=2**30)

    assert hypervisor.volume(POOL, own("v")) == first


def test_an_uploaded_volume_is_as_large_as_its_file(hypervisor: Hypervisor, own: Names, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * 2**20 + 4096))

    uploaded = hypervisor.upload_volume(POOL, own("v"), source, format="raw", capacity=source.stat().st_size)

    assert uploaded.capacity == source.stat().st_size
    assert uploaded.allocation >= source.stat().st_size
    assert hypervisor.volume(POOL, own("v")) == uploaded


def test_an_upload_over_a_volume_is_refused(hypervisor: Hypervisor, own: Names, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"new")
    first = hypervisor.create_volume(POOL, own("v"), size=2**20)

    with pytest.raises(NameTaken, match=own("v")):
        hypervisor.upload_volume(POOL, own("v"), source, format="raw", capacity=512)

    assert hypervisor.volume(POOL, own("v")) == first


@pytest.mark.parametrize("source", ["missing", "."])
def test_an_unreadable_upload_leaves_nothing(hypervisor: Hypervisor, own: Names, tmp_path: Path, source: str) -> None:
    with pytest.raises(Failed, match="could not read"):
        hypervisor.upload_volume(POOL, own("v"), tmp_path / source, format="raw", capacity=512)

    assert hypervisor.volume(POOL, own("v")) is None


def test_removing_a_volume_twice_finds_it_gone(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.create_volume(POOL, own("v"), size=2**20)

    assert hypervisor.remove_volume(POOL, own("v")) is True
    assert hypervisor.volume(POOL, own("v")) is None
    assert hypervisor.remove_volume(POOL, own("v")) is False


def test_removing_an_overlay_leaves_its_backing_file(hypervisor: Hypervisor, own: Names) -> None:
    base = hypervisor.create_volume(POOL, own("base"), size=2**20)
    hypervisor.create_volume(POOL, own("v"), size=2**20, backing=base.path)

    hypervisor.remove_volume(POOL, own("v"))

    assert hypervisor.volume(POOL, own("base")) == base


# at the same time


def test_of_two_that_create_the_same_network_one_wins(hypervisor: Hypervisor, own: Names) -> None:
    first = network_xml(own("net"), subnet=own.subnet(0), bridge=own("a"))
    second = network_xml(own("net"), subnet=own.subnet(1), bridge=own("b"))

    results = together(lambda: hypervisor.create_network(first), lambda: hypervisor.create_network(second))

    assert results.count(NameTaken) == 1
    assert len(named(hypervisor.networks(), own("net"))) == 1


def test_of_two_that_create_the_same_volume_one_wins(hypervisor: Hypervisor, own: Names) -> None:
    results = together(
        lambda: hypervisor.create_volume(POOL, own("v"), size=2**20),
        lambda: hypervisor.create_volume(POOL, own("v"), size=2**20),
    )

    assert results.count(NameTaken) == 1
    assert hypervisor.volume(POOL, own("v")) in results


def test_two_may_start_the_same_domain(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))

    results = together(lambda: hypervisor.start_domain(own("a")), lambda: hypervisor.start_domain(own("a")))

    assert results == [None, None]


def test_two_may_remove_the_same_running_domain(hypervisor: Hypervisor, own: Names) -> None:
    hypervisor.define_domain(domain_xml(own("a")))
    hypervisor.start_domain(own("a"))

    results = together(lambda: hypervisor.remove_domain(own("a")), lambda: hypervisor.remove_domain(own("a")))

    assert set(results) <= {True, False}
    assert True in results
    assert hypervisor.domain(own("a")).state is DomainState.MISSING


def test_eight_can_make_list_and_remove_at_once(hypervisor: Hypervisor, own: Names, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(2**20))

    def live(number: int) -> list[bool]:
        name = own(f"{number}")
        hypervisor.create_network(network_xml(name, subnet=own.subnet(number)))
        hypervisor.upload_volume(POOL, f"{name}.iso", source, format="raw", capacity=2**20)
        hypervisor.create_volume(POOL, name, size=2**30)
        hypervisor.define_domain(domain_xml(name))
        seen = [
            name in names(hypervisor.domains()),
            name in names(hypervisor.networks()),
            {name, f"{name}.iso"} <= names(hypervisor.volumes(POOL)),
        ]
        return [
            *seen,
            hypervisor.remove_domain(name),
            hypervisor.remove_network(name),
            hypervisor.remove_volume(POOL, name),
            hypervisor.remove_volume(POOL, f"{name}.iso"),
        ]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(live, range(8)))

    assert results == [[True] * 7] * 8
