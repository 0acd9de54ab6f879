"""What drivers put into a domain's definition beside what they make themselves: the same for all of them."""

from __future__ import annotations

import string

from vmprov.drivers import Order
from vmprov.render import render

FRAGMENT = "vagrantfiles/domain-fragment.xml.j2"
_BOOT = {"disk": "hd", "network": "network"}


def fragment_xml(order: Order) -> str:
    """The parts of a definition, to be spliced into that of the domain.

    Of the order, what is left out is what drivers make themselves: name, uuid, memory, cpus, chipset, and system disk;
    and the password of the screen, which must not lie about in files.
    """
    # vda is the system disk. The seed comes last, so that data disks have the same names with and without it.
    names = (f"vd{letter}" for letter in string.ascii_lowercase[1:])
    disks = [{"path": disk.path, "serial": disk.serial, "target": next(names)} for disk in order.disks]
    return render(
        FRAGMENT,
        installation=order.mark.installation,
        lab=order.mark.lab,
        vm=order.mark.vm,
        smbios={
            "manufacturer": order.manufacturer,
            "product": order.product,
            "serial": order.serial_number,
        },
        boot=[_BOOT[device] for device in order.boot],
        firmware=order.firmware,
        pxe=order.pxe,
        netboot="network" in order.boot and order.firmware is None,
        tpm=order.tpm,
        disks=disks,
        nics=order.nics,
        seed={"path": order.seed, "target": next(names)} if order.seed else None,
        consoles=order.consoles,
        screen=order.screen_password is not None,
    )


def chipset(order: Order) -> str:
    """The machine type: what UEFI, Secure Boot above all, is made for, or the one that BIOS guests always had."""
    return "pc" if order.firmware is None else "q35"
