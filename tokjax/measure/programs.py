"""What a compiled program needs of a device and sends between devices, read off the program itself."""

import dataclasses
import math
import re
from collections import Counter
from typing import Any

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"^(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_INTEGER = re.compile(r" = [su]32\[\]\S* constant\((\d+)\)")
# Devices that a collective joins, as XLA writes them: the numbers of each group, groups by size, or axes of a mesh.
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]<=|mesh\[([^\]]*)\] \{([^}]*)\})")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_AXIS_PART = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_PARTITIONS = re.compile(r"^HloModule .*\bnum_partitions=(\d+)")
_REDUCE_SCATTER = "all-reduce-scatter"  # how TPU programs name what reduces and keeps a part


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramCost:
    """What each device needs for one run of a compiled program.

    Attributes:
      argument_bytes: of what goes in: parameters, optimizer state, batch.
      temporary_bytes: largest size of what exists only meanwhile.
      collective_bytes: bytes of the results of each kind of collective, loops counted as often as they run.
      received_bytes: bytes that each kind brings to a device over its links. Of n devices that share an array of a
        bytes, gathering, scattering sums and exchanging bring a (n - 1) / n, an all-reduce, a scatter and a gather,
        twice that.
      collectives: how many of each kind run.
    """

    argument_bytes: int
    temporary_bytes: int
    collective_bytes: dict[str, int]
    received_bytes: dict[str, int]
    collectives: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collectives:
    """Collectives of a program by kind: bytes of their results, bytes that reach a device, and how many run."""

    result_bytes: dict[str, int]
    received_bytes: dict[str, int]
    number: dict[str, int]


def program_cost(compiled: Any) -> ProgramCost:
    """Returns the cost of a `jax.stages.Compiled`."""
    memory = compiled.memory_analysis()
    found = collectives(compiled.as_text())
    return ProgramCost(
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        collective_bytes=found.result_bytes,
        received_bytes=found.received_bytes,
        collectives=found.number,
    )


def collectives(text: str) -> Collectives:
    """Returns what the collectives of an optimized HLO program give and bring, and their number.

    The body of a loop counts as often as it runs: what XLA notes of it or, where it notes nothing, the one whole number
    that its condition holds; once where there are several.
    """
    results: dict[str, Counter] = {}
    received: dict[str, Counter] = {}
    numbers: dict[str, Counter] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    entry = name = ""
    bounds = _loop_bounds(text)
    partitions = _PARTITIONS.search(text)
    devices = int(partitions[1]) if partitions else 1
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            name = start[1]
            results[name], received[name], numbers[name], calls[name] = Counter(), Counter(), Counter(), []
            entry = name if line.startswith("ENTRY") else entry
            continue
        found = _OPERATION.match(line.strip())
        if not found or not name:
            continue
        result, operation = found.groups()
        kind = operation.removesuffix("-start")
        if kind in COLLECTIVES:
            arrays = _ARRAY.findall(result)
            if operation.endswith("-start") and kind != "all-reduce":
                # Its result holds its operands before what it gives, and perhaps flags.
                arrays = [(dtype, shape) for dtype, shape in arrays if dtype != "u32" or shape]
                arrays = arrays[len(arrays) // 2 :]
            size, joined = sum(_size(dtype, shape) for dtype, shape in arrays), _joined(line, devices)
            if kind == "all-reduce" and name.startswith(_REDUCE_SCATTER):
                kind, size = "reduce-scatter", size // joined
            results[name][kind] += size
            received[name][kind] += _received(kind, size, joined)
            numbers[name][kind] += 1
        trips = _trips(line, bounds) if operation == "while" else 1
        for called, branches in _CALLED.findall(line):
            calls[name] += [(each.strip(" %"), trips) for each in (called or branches).split(",")]
    return Collectives(
        result_bytes=dict(_total(entry, results, calls, {})),
        received_bytes=dict(_total(entry, received, calls, {})),
        number=dict(_total(entry, numbers, calls, {})),
    )


def _joined(line: str, devices: int) -> int:
    """Returns how many devices a collective joins: all where the program names none."""
    found = _GROUPS.search(line)
    if not found:
        return devices
    numbers, size, mesh, axes = found.groups()
    if numbers:
        return numbers.count(",") + 1
    if size:
        return int(size)
    sizes = dict(_MESH_AXIS.findall(mesh))
    return math.prod(int(part or sizes[axis]) for axis, part in _AXIS_PART.findall(axes))


def _received(kind: str, size: int, devices: int) -> int:
    """Returns the bytes that one collective brings to a device, of a result of `size` bytes."""
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter":
        return size * (devices - 1)
    return (2 if kind == "all-reduce" else 1) * size * (devices - 1) // devices


def _loop_bounds(text: str) -> dict[str, int]:
    """Returns the whole number that each computation holds, of those that hold one."""
    found: dict[str, list[int]] = {}
    name = ""
    for line in text.splitlines():
        start, number = _COMPUTATION.match(line), _INTEGER.search(line)
        name = start[1] if start else name
        if number:
            found.setdefault(name, []).append(int(number[1]))
    return {name: numbers[0] for name, numbers in found.items() if len(numbers) == 1}


def _trips(line: str, bounds: dict[str, int]) -> int:
    noted, condition = _TRIPS.search(line), _CONDITION.search(line)
    if noted:
        return int(noted[1])
    return bounds.get(condition[1], 1) if condition else 1


def _total(name: str, own: dict[str, Counter], calls: dict[str, list[tuple[str, int]]], known: dict) -> Counter:
    if name not in known:
        total = Counter(own.get(name, {}))
        for called, trips in calls.get(name, ()):
            for kind, amount in _total(called, own, calls, known).items():
                total[kind] += trips * amount
        known[name] = total
    return known[name]


def _size(dtype: str, shape: str) -> int:
    return _BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n)
