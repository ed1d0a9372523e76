"""What a compiled program needs of a device and sends between devices, read off the program itself."""

import dataclasses
import math
import re
from collections import Counter
from typing import Any

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"s64": 8, "u64": 8, "f64": 8, "f8e4m3fn": 1, "f8e5m2": 1}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_OPERATION = re.compile(r"^(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")
_NAMES = re.compile(r"%([\w.-]+)")
# Loops, and what tells how often they run: a note, or a counter that is compared with a number and grows by another.
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LOOP = re.compile(r"condition=%?([\w.-]+), body=%?([\w.-]+)")
_INTEGER = re.compile(r"([\w.-]+) = [su]32\[\]\S* constant\((\d+)\)")
_ELEMENT = re.compile(r"([\w.-]+) = [su]32\[\]\S* get-tuple-element\(.*\), index=(\d+)")
_LESS = re.compile(r"^ROOT .* compare\(%([\w.-]+), %([\w.-]+)\), direction=LT")
_SUM = re.compile(r"([\w.-]+) = [su]32\[\]\S* add\(%([\w.-]+), %([\w.-]+)\)")
_TUPLE = re.compile(r"^ROOT .* tuple\((.*?)\)")
# Devices that a collective joins, as XLA writes them: the numbers of each group, groups by size, or axes of a mesh.
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]<=|mesh\[([^\]]*)\] \{([^}]*)\})")
_MESH_AXIS = re.compile(r"'([^']+)'=(\d+)")
_AXIS_PART = re.compile(r"'([^']+)'(?::\(\d+\)(\d+))?")
_PARTITIONS = re.compile(r"^HloModule .*\bnum_partitions=(\d+)")
# How TPU programs name what sums and keeps a part, and what goes on with a collective beside other work, or ends it:
# that holds the whole collective again, which counts where it starts.
_REDUCE_SCATTER = "all-reduce-scatter"
_GOES_ON = ("async_collective_fusion", "async-collective-done")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramCost:
    """What each device needs for one run of a compiled program.

    Attributes:
      argument_bytes: of what goes in: parameters, optimizer state, batch.
      temporary_bytes: largest size of what exists only meanwhile.
      received_bytes: bytes that each kind of collective brings to a device over its links, loops counted as often as
        they run. Of n devices that share an array of a bytes, gathering, scattering sums and exchanging bring
        a (n - 1) / n; an all-reduce, which is a scatter and a gather, twice that.
      collectives: how many of each kind run.
    """

    argument_bytes: int
    temporary_bytes: int
    received_bytes: dict[str, int]
    collectives: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collectives:
    """Collectives of a program by kind: bytes of their results, bytes that they bring to a device, how many run."""

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
        received_bytes=found.received_bytes,
        collectives=found.number,
    )


def collectives(text: str) -> Collectives:
    """Returns what the collectives of an optimized HLO program give and bring to a device, and their number.

    The body of a loop counts as often as it runs: what XLA notes of it or, where it notes nothing, the number that its
    counter is compared with over what is added to the counter each time; once where that cannot be read.
    """
    entry, computations = _computations(text)
    partitions = _PARTITIONS.search(text)
    devices = int(partitions[1]) if partitions else 1
    own: dict[str, Counter] = {}
    calls: dict[str, list[tuple[str, int]]] = {}
    for name, lines in computations.items():
        own[name], calls[name] = Counter(), []
        for line in lines:
            found = _OPERATION.match(line)
            if not found or found[1].startswith(_GOES_ON):
                continue
            kind = found[3].removesuffix("-start")
            if kind in COLLECTIVES:
                size, joined = _result_bytes(found[2], found[3]), _joined(line, devices)
                if kind == "all-reduce" and name.startswith(_REDUCE_SCATTER):
                    kind, size = "reduce-scatter", size // joined
                received = _received(kind, size, joined)
                own[name].update({("result", kind): size, ("received", kind): received, ("number", kind): 1})
            trips = _trips(line, computations) if found[3] == "while" else 1
            for one, branches in _CALLED.findall(line):
                called = (each.strip(" %") for each in (one or branches).split(","))
                calls[name] += [(each, trips) for each in called if not each.startswith(_GOES_ON)]
    total = _total(entry, own, calls, {})

    def by_kind(what: str) -> dict[str, int]:
        return {kind: amount for (measure, kind), amount in total.items() if measure == what}

    return Collectives(result_bytes=by_kind("result"), received_bytes=by_kind("received"), number=by_kind("number"))


def _computations(text: str) -> tuple[str, dict[str, list[str]]]:
    """Returns the name of the computation that the program starts with, and the lines of each by its name."""
    found: dict[str, list[str]] = {}
    entry = name = ""
    for line in text.splitlines():
        start = _COMPUTATION.match(line)
        if start:
            name = start[2]
            found[name] = []
            entry = name if start[1] else entry
        elif name:
            found[name].append(line.strip())
    return entry, found


def _result_bytes(result: str, operation: str) -> int:
    """Returns the size of what a collective gives."""
    arrays = _ARRAY.findall(result)
    if operation.endswith("-start") and operation != "all-reduce-start":
        # Its result holds its operands before what it gives, and perhaps flags.
        arrays = [(dtype, shape) for dtype, shape in arrays if dtype != "u32" or shape]
        arrays = arrays[len(arrays) // 2 :]
    return sum(_BYTES[dtype] * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in arrays)


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


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """Returns how often the loop of this line runs."""
    noted, loop = _TRIPS.search(line), _LOOP.search(line)
    if noted:
        return int(noted[1])
    if not loop:
        return 1
    condition, body = (computations.get(name, []) for name in loop.groups())
    numbers = _found(_INTEGER, condition)
    ends = next(filter(None, map(_LESS.search, condition)), None)
    if not ends or ends[2] not in numbers:
        return int(next(iter(numbers.values()))) if len(numbers) == 1 else 1
    return -(-int(numbers[ends[2]]) // _growth(body, _found(_ELEMENT, condition).get(ends[1])))


def _growth(body: list[str], index: str | None) -> int:
    """Returns what a loop adds to the element of its state with this index; 1 where that cannot be read."""
    results = next(filter(None, map(_TUPLE.search, body)), None)
    if index is None or not results:
        return 1
    name = _NAMES.findall(results[1])[int(index)]
    numbers = _found(_INTEGER, body)
    sums = {found[1]: found.groups()[1:] for found in map(_SUM.search, body) if found}
    return next((int(numbers[each]) for each in sums.get(name, ()) if each in numbers), 1)


def _found(pattern: re.Pattern, lines: list[str]) -> dict[str, str]:
    """Returns the second group of every line that matches, by the first."""
    return {found[1]: found[2] for found in map(pattern.search, lines) if found}


def _total(name: str, own: dict[str, Counter], calls: dict[str, list[tuple[str, int]]], known: dict) -> Counter:
    if name not in known:
        total = Counter(own.get(name, {}))
        for called, trips in calls.get(name, ()):
            for kind, amount in _total(called, own, calls, known).items():
                total[kind] += trips * amount
        known[name] = total
    return known[name]
