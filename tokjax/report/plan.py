"""A plan for a pod, for the terminal and as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokjax.experiment.plan import Candidate, Compiled, Plan
from tokjax.measure.pods import GIB, PRODUCTS, STREAMS, USABLE, Estimate
from tokjax.report.units import duration, plural, si

if TYPE_CHECKING:
    import rich.console
    import rich.table

_ASSUMED = (
    f"Arithmetic on vendors' figures; nothing was run. Products are taken to reach {PRODUCTS:.0%} of the peak, memory "
    f"and links {STREAMS:.0%} of theirs, and a program may take {USABLE:.0%} of the memory. Traffic of parameters and "
    "gradients hides behind products, that of activations does not; in the slowest step nothing overlaps."
)


def plan_json(plan: Plan, compiled: Compiled | None = None) -> dict[str, Any]:
    """Returns a plan as what JSON holds. Bytes and seconds are of one device and one step."""
    return {
        "config": plan.config,
        "topology": plan.pod.name,
        "devices": plan.pod.devices,
        "parameters": plan.step.parameters,
        "rows": plan.step.data["batch_size"],
        "positions": plan.step.positions,
        "accumulate_steps": plan.step.optimizer.accumulate_steps,
        "recomputes": plan.step.recomputes,
        "flops_per_step": 3.0 * plan.step.flops * plan.step.data["batch_size"],
        "recommended": plan.best.mesh if plan.fits else None,
        "meshes": [_candidate_json(one) for one in plan.candidates],
        "advice": list(plan.advice),
        "compiled": None if compiled is None else dataclasses.asdict(compiled) | {"bytes": compiled.bytes},
    }


def _candidate_json(one: Candidate) -> dict[str, Any]:
    found = one.estimate
    if found is None:
        return {"mesh": one.mesh, "problem": one.problem}
    derived = ("bytes", "fits", "headroom", "step_seconds", "slowest_seconds")
    return {"mesh": one.mesh, **dataclasses.asdict(found), **{name: getattr(found, name) for name in derived}}


def terminal_plan(plan: Plan, compiled: Compiled | None = None) -> "rich.console.Group":
    """Returns what a person reads: the answer, the meshes that were tried, and one of them in detail."""
    from rich.console import Group
    from rich.text import Text

    shown: list[Any] = [Text(_headline(plan)), Text(_about(plan)), _meshes_table(plan)]
    shown += [Text(f"{one.name}: {one.problem}") for one in plan.candidates if one.problem]
    if plan.best.estimate is not None:
        shown.append(_detail_table(plan.best, compiled))
    return Group(*shown, Text(_ASSUMED))


def _headline(plan: Plan) -> str:
    found, where = plan.best.estimate, plan.best.name
    assert found is not None
    size, limit = found.bytes / GIB, found.limit / GIB
    if plan.fits:
        return (
            f"{plan.config} fits {plan.pod.name} on the mesh {where}: {size:.1f} of {limit:.1f} GiB a device, "
            f"{_seconds(found.step_seconds)} a step, {100 * found.mfu:.0f}% MFU."
        )
    lines = [
        f"{plan.config} does not fit {plan.pod.name}: the least, on the mesh {where}, is {size:.1f} GiB a device; "
        f"{limit:.1f} are there. What would fit:"
    ]
    return "\n".join([*lines, *(f"  {line}" for line in plan.advice)])


def _about(plan: Plan) -> str:
    step = plan.step
    rows, parts = step.data["batch_size"], step.optimizer.accumulate_steps
    flops = 3.0 * step.flops * rows
    return (
        f"{step.parameters / 1e6:,.0f}M parameters. A step: {plural(rows, 'row')} of "
        f"{plural(step.positions, 'position')} in {plural(parts, 'part')}, {si(flops, 'FLOP')}. "
        f"{plural(plan.pod.devices, 'device')} of {si(plan.pod.chip.flops, 'FLOP/s')}."
    )


def _table(*columns: str) -> "rich.table.Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _meshes_table(plan: Plan) -> "rich.table.Table":
    table = _table("mesh", "GiB", "left", "fits", "step", "slowest", "MFU")
    for number, one in enumerate(plan.candidates):
        found = one.estimate
        if found is None:
            table.add_row(one.name, "", "", "no", "", "", "")
            continue
        best = number == 0 and found.fits
        table.add_row(
            f"{one.name} *" if best else one.name,
            f"{found.bytes / GIB:.1f}",
            f"{found.headroom / GIB:.1f}",
            "yes" if found.fits else "no",
            _seconds(found.step_seconds),
            _seconds(found.slowest_seconds),
            f"{100 * found.mfu:.0f}%",
            style="bold green" if best else "",
        )
    return table


def _seconds(value: float) -> str:
    return duration(value) if value >= 1 else f"{1e3 * value:.3g} ms"


def _detail_table(one: Candidate, compiled: Compiled | None) -> "rich.table.Table":
    """What one mesh takes, and beside it what the compiler found."""
    found = one.estimate
    assert found is not None
    heading = ("compiled",) if compiled else ()
    table = _table(f"{one.name}, of a device and step", "estimate", *heading)
    arguments, temporary = _halves(found)

    def section(title: str, parts: Mapping[str, float], said: Mapping[str, int] | int | None) -> None:
        total = said if isinstance(said, int) or said is None else sum(said.values())
        row = (title, _gib(sum(parts.values())), *((_gib(total),) if compiled and total is not None else ()))
        table.add_row(*row, style="bold")
        for name, size in parts.items():
            if size:
                table.add_row(f"  {name}", _gib(size))
        for name, size in said.items() if isinstance(said, Mapping) else ():
            if size:
                table.add_row(f"  {name}", "", _gib(size))

    section("state", arguments, compiled.arguments if compiled else None)
    section("temporary", temporary, compiled.temporary if compiled else None)
    section("received over links", found.traffic, compiled.traffic if compiled else None)
    times = {
        "products": found.compute_seconds,
        "bound by memory": found.memory_seconds,
        "traffic that is hidden": found.hidden_seconds,
        "traffic that is not": found.exposed_seconds,
    }
    table.add_row("time", _seconds(found.step_seconds), style="bold")
    for name, seconds in times.items():
        if seconds:
            table.add_row(f"  {name}", _seconds(seconds))
    return table


def _gib(size: float) -> str:
    if size >= 0.1 * GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / 2**20:.1f} MiB" if size >= 0.1 * 2**20 else f"{size:.0f} B"


def _halves(found: Estimate) -> tuple[dict[str, float], dict[str, float]]:
    """What a step is given, and what exists only within it."""
    given = {name: size for name, size in found.memory.items() if name in found.given}
    return given, {name: size for name, size in found.memory.items() if name not in found.given}
