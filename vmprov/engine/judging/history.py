"""Writing down how a flow went: on the VM's record, and among the runs of which statistics are made."""

from __future__ import annotations

import json
import time

from vmprov.engine.context import Context
from vmprov.engine.judging.ready import Judged
from vmprov.engine.objects.annotate import annotate
from vmprov.store import Run, VMRecord


def remember(ctx: Context, vm: VMRecord, judged: Judged, *, state: str, seconds: float) -> None:
    """Write down a VM's verdict; ``state`` is the record's new one, ``seconds`` those since the request."""
    verdict = judged.verdict
    ctx.store.update_vm(
        vm.name,
        state=state,
        verdict=verdict.kind,
        why="" if verdict.kind == "success" else verdict.why,
        address=judged.address or vm.address,
        judgement=json.dumps(verdict.to_json()),
        seconds=seconds,
    )
    annotate(ctx, vm.name)
    if judged.timeline:
        stages = tuple((stay.stage, stay.start, stay.seconds or 0.0, stay.outcome) for stay in judged.timeline)
        ctx.store.add_run(
            Run(
                vm=vm.name, lab=vm.lab, image=vm.image, flow=ctx.store.vm(vm.name).flow, verdict=verdict.kind,
                failure_class=verdict.failure_class, stage=verdict.stage, ended=time.time(), seconds=verdict.at,
                stages=stages,
            )
        )  # fmt: skip
