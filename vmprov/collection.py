"""Collecting garbage, and making records again from what hosts hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vmprov.events import Note
from vmprov.hosts import Host
from vmprov.views import GcResult, RebuildResult
from vmprov.workspace import Workspace

if TYPE_CHECKING:
    from vmprov.engine.garbage.gc import Collector


class Collection(Workspace):
    """What :class:`vmprov.lab.Vmprov` can do about what was left behind."""

    def gc(self, *, dry_run: bool = False, hosts: Sequence[str] = ()) -> GcResult:
        """Remove what is ours and no lab owns: what was cut short, what expired, what no record speaks of.

        Of all hosts that records and the state directory know, and of ``hosts``; those that are not up are left alone.
        What another process works on, or watches, is left alone too. ``dry_run``: only say what it is. Never raises
        for one thing: see ``leftovers`` of the result.
        """
        return self._collector(self._hosts_to_look_at(hosts), dry_run=dry_run).collect()

    def expire(self, *, but: str = "") -> list[str]:
        """Remove VMs whose time is up; returns their names. Where somebody is at work on the lab, they stay for now.

        ``but``: a lab whose VMs stay.
        """
        if not self.store.expired():
            return []
        result = self._collector([], dry_run=False).expire(but=but)
        for one in result.leftovers:
            told = f"could not be removed: {one.problem}" if one.problem else "is removed"
            self.events.emit(Note(text=f"{one.name} {told}: {one.why}"))
        return [one.name for one in result.leftovers if not one.problem]

    def rebuild_records(self, *, hosts: Sequence[str] = ()) -> RebuildResult:
        """Record again what was recorded before the database was lost, as far as hosts tell; a damaged one goes aside.

        Nothing on hosts is changed. Raises :class:`vmprov.errors.HostNotReady` for a database that is not damaged and
        cannot be used.
        """
        from vmprov.engine.garbage.restore import examine_database, read_back

        self.home.create()
        self._forget_store()
        database = examine_database(self.home)
        done = read_back(self.home, self.store, self._hosts_to_look_at(hosts))
        return RebuildResult(
            database=database.state, aside=str(database.aside or ""), labs=done.labs, vms=done.vms, untold=done.untold
        )

    def _collector(self, hosts: Sequence[Host], *, dry_run: bool) -> Collector:
        from vmprov.engine.garbage.gc import Collector

        return Collector(
            home=self.home, store=self.store, engine=self.engine, hosts=hosts,
            context=lambda lab: self.context(lab.host, lab.driver), dry_run=dry_run,
        )  # fmt: skip

    def _hosts_to_look_at(self, named: Sequence[str]) -> list[Host]:
        """Hosts of which anything is recorded or lies in the state directory, and those that are named."""
        uris = [*named, *(lab.host for lab in self.store.labs()), *(thing.host for thing in self.store.owned())]
        present = {path.name for path in self.home.host("").glob("*")}
        if "embedded" in present:
            uris.append("embedded")
        uris += [f"fake:{name[5:]}" for name in sorted(present) if name == "fake" or name.startswith("fake-")]
        if not self.settings.host.startswith("fake:") and self.settings.host != "embedded":
            uris.append(self.settings.host)
        return [self.host(uri) for uri in dict.fromkeys(uris)]
