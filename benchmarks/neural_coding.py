"""Speed of the neural entropy model: its compiled step against the plain forward pass of the same parameters.

    python -m benchmarks.neural_coding [--run runs/m1]

`step` reads one byte in each of the rows, 64 times, from a restart, and quantises every prediction; `forward` computes
the logits of the same rows at once, as training does. Rounds alternate between the two and the best counts; parameters,
device and text are the same. `strings` is `next_probabilities` of random strings of 7 bytes on average and 25 at most,
as building a table of strings asks for; `seconds_for_65536` is measured, not projected, and includes compilation.
Without `--run` the parameters are random, in the shape of the paper's 3M model; speed does not depend on them.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from tokjax.coding.neural import Transformer, to_params, to_tables
from tokjax.core.types import Tables
from tokjax.experiment.entropy import export_entropy
from tokjax.nn import param
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.lm import Lm

STEPS, ROUNDS = 64, 5
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


def stepping(spec: Transformer, tables: Tables) -> list[dict[str, Any]]:
    """Rows of `step` and `forward`."""
    engine = spec.engine(tables)
    system = Lm(vocab_size=257, backbone=spec.backbone, tied=spec.tied)
    params = to_params(tables)
    texts = np.random.default_rng(0).integers(0, 256, (STEPS, spec.rows), np.int32)
    ids = jnp.asarray(texts.T)
    forward = jax.jit(lambda params, ids: system.logits(params, stream_batch(ids))[0])
    walked = [(jnp.asarray(text), jnp.full(spec.rows, step == 0)) for step, text in enumerate(texts)]
    state = engine.start(spec.rows)

    def walk() -> Any:
        nonlocal state
        for text, restart in walked:
            state = engine.step(engine.params, state, text, restart)
        return state["cdf"]

    calls: dict[str, Callable[[], Any]] = {"step": walk, "forward": lambda: forward(params, ids)}
    for call in calls.values():
        seconds(call)
    rounds = [{name: seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
    best = {name: min(times[name] for times in rounds) for name in calls}
    return [
        {
            "what": name,
            "rows": spec.rows,
            "steps": STEPS,
            "bytes_per_second": STEPS * spec.rows / best[name],
            "speed_over_forward": best["forward"] / best[name],
        }
        for name in calls
    ]


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
    common.write("neural_coding", [{**row, **shared} for row in (*stepping(spec, tables), strings(spec, tables))])


if __name__ == "__main__":
    main()
