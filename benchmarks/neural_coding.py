"""Speed of the neural entropy model: its compiled step against the plain forward pass of the same parameters.

    python -m benchmarks.neural_coding [--run runs/m1]

`step` reads one byte in each of the rows, 64 times, from a restart, and quantises every prediction; `forward` computes
the logits of the same rows at once, as training does. `encode` and `decode` are whole calls, from bytes to the codes of
windows and back, with the coder beside the model; their rows hold `DOCUMENT` bytes of prose each. Rounds alternate and
the best counts, so that none with compilation in it does; parameters and device are the same for all. `strings` is
`next_probabilities` of random strings of 7 bytes on average and 25 at most, as building a table of strings asks for;
`seconds_for_65536` is measured, not projected, and includes compilation.
Without `--run` the parameters are random, in the shape of the paper's 3M model: the speed of a step does not depend on
them, but windows then hold two bytes, not five.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from tokjax.coding import windows
from tokjax.coding.neural import Transformer, to_params, to_tables
from tokjax.coding.windows import Window
from tokjax.core.types import Tables
from tokjax.data import load_source
from tokjax.experiment.entropy import export_entropy
from tokjax.nn import param
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.lm import Lm

STEPS, ROUNDS = 64, 4
DOCUMENT = 512
WINDOWS = ((16, "paper"), (16, "delay"), (64, "paper"))
STRINGS, MEAN_LENGTH, LONGEST = 65_536, 7, 25


def random_model() -> tuple[Transformer, Tables]:
    """The paper's shape with the parameters that training starts from."""
    spec = Transformer(context=STEPS)
    system = Lm(vocab_size=257, backbone=spec.backbone)
    return spec, to_tables(param.materialize(system.declare(), jax.random.key(0)), np.ones(256))


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds until the result is there."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def speeds(spec: Transformer, tables: Tables) -> list[dict[str, Any]]:
    """Rows of `step`, `forward`, and of `encode` and `decode` for each of `WINDOWS`."""
    engine = spec.engine(tables)
    system = Lm(vocab_size=257, backbone=spec.backbone, tied=spec.tied)
    params = to_params(tables)
    texts = documents(spec.rows)
    columns = np.stack([np.frombuffer(text[:STEPS], np.uint8) for text in texts], axis=1).astype(np.int32)
    ids = jnp.asarray(columns.T)
    forward = jax.jit(lambda params, ids: system.logits(params, stream_batch(ids))[0])
    walked = [(jnp.asarray(column), jnp.full(spec.rows, step == 0)) for step, column in enumerate(columns)]
    state = engine.start(spec.rows)

    def walk() -> Any:
        nonlocal state
        for column, restart in walked:
            state = engine.step(engine.params, state, column, restart)
        return state["cdf"]

    calls: dict[str, tuple[int, Callable[[], Any]]] = {
        "step": (columns.size, walk),
        "forward": (columns.size, lambda: forward(params, ids)),
    }
    for bits, rule in WINDOWS:
        window = Window(bits, engine.precision, engine.context, rule)
        codes = np.concatenate([code for code, _ in windows.encode(engine, window, texts)])
        for name, call in (("encode", windows.encode), ("decode", windows.decode)):
            given = texts if name == "encode" else codes
            run = functools.partial(call, engine, window, given)  # type: ignore[operator]
            calls[f"{name} {rule} b{bits}"] = spec.rows * DOCUMENT, run
    rounds = [{name: seconds(call) for name, (_, call) in calls.items()} for _ in range(ROUNDS)]
    rate = {name: size / min(times[name] for times in rounds) for name, (size, _) in calls.items()}
    return [
        {
            "what": name,
            "rows": spec.rows,
            "bytes_per_second": rate[name],
            "speed_over_forward": rate[name] / rate["forward"],
        }
        for name in calls
    ]


def documents(rows: int) -> list[bytes]:
    """Prose, `DOCUMENT` bytes for each row."""
    text = b"".join(load_source("pydocs"))[: rows * DOCUMENT]
    return [text[start : start + DOCUMENT] for start in range(0, len(text), DOCUMENT)]


def strings(spec: Transformer, tables: Tables) -> dict[str, Any]:
    """The row of `next_probabilities`, compilation included."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.poisson(MEAN_LENGTH, STRINGS), 1, LONGEST)
    prefixes = [generator.bytes(length) for length in lengths.tolist()]
    start = time.perf_counter()
    for first in range(0, STRINGS, 4096):
        spec.next_probabilities(tables, prefixes[first : first + 4096])
    elapsed = time.perf_counter() - start
    return {"what": "strings", "strings_per_second": STRINGS / elapsed, f"seconds_for_{STRINGS}": elapsed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", help="directory of a training run (default: random parameters of the paper's shape)")
    directory = parser.parse_args().run
    if directory:
        fitted = export_entropy(directory)
        assert isinstance(fitted.spec, Transformer)
        spec, tables = fitted.spec, fitted.tables
    else:
        spec, tables = random_model()
    shared = {"parameters": sum(array.size for array in tables.values())}
    common.write("neural_coding", [{**row, **shared} for row in (*speeds(spec, tables), strings(spec, tables))])


if __name__ == "__main__":
    main()
