"""Time and memory of quantizers against `vector-quantize-pytorch`, and of their searches against full matrices.

    python -m benchmarks.quantizers [--rounds 3]

Every row is a case in a process of its own, in rounds that alternate between libraries, on the cores that this process
may use (`taskset -c 0` gives it one); `threads` is their number. Vectors and codebook are drawn by NumPy and equal for
both libraries. A step is one training step of the quantizer alone, forward and backward: codes, vectors, loss, its new
averages, and the gradient to the vectors (of `ibq` also to the codebook). `vq` has averages with a decay of .99, a
commitment of .25 and the straight-through gradient in both libraries; the loss of both is compared.

`seconds` is the median of all steps but the first of each process. `peak_megabytes` is the highest resident size during
that first step over the one just before it, when inputs were made, code was compiled or loaded, and freed pages were
given back; the largest of all rounds. `megabytes_from_start` also counts what compiling took. Rows of peers have
`speed_of_tokjax`, their seconds over ours, and `memory_of_tokjax`, our peak over theirs. Needs Linux.
"""

import argparse
import ctypes
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import common

N, K, IBQ_K, IBQ_D = 8192, 8192, 16_384, 64
WIDTHS = (8, 64, 256)
STEPS = 5  # timed in each process
Step = Callable[[], float]


def inputs(codes: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns vectors, codebook, and the gradient of quantized vectors."""
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((n, width), np.float32) for n in (N, codes, N))  # type: ignore[return-value]


def vq_tokjax(width: int) -> Callable[[], Step]:
    """Returns a function that compiles and returns the step, which returns its loss; so do the other cases."""
    import jax
    import jax.numpy as jnp

    from tokjax.quantize import quantizer

    spec = quantizer(f"vq:codes={K}:update=ema", width=width)
    x, codebook, weights = map(jnp.asarray, inputs(K, width))
    state = spec.init_state(jax.random.key(0)) | {"codebook": codebook, "sums": jnp.copy(codebook)}

    def objective(x: jax.Array, state: Any, weights: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        found = spec.quantize({}, state, x, key, train=True)
        return jnp.sum(found.vectors * weights) + found.loss, (found.loss, found.state, found.codes)

    return _compiled(jax.value_and_grad(objective, has_aux=True), x, state, weights, jax.random.key(0))


def vq_peer(width: int) -> Callable[[], Step]:
    import torch
    from vector_quantize_pytorch import VectorQuantize

    def make(codes: int) -> Any:
        return VectorQuantize(
            dim=width, codebook_size=codes, decay=0.99, commitment_weight=0.25, rotation_trick=False
        ).train()

    def step(module: Any, x: Any, weights: Any) -> float:
        quantized, _, loss = module(x)
        (torch.sum(quantized * weights) + loss).backward()
        x.grad = None
        return loss.item()

    module = make(K)
    x, codebook, weights = map(torch.tensor, inputs(K, width))
    with torch.no_grad():
        module._codebook.embed.copy_(codebook)
        module._codebook.embed_avg.copy_(codebook)
    x, weights = x[None].requires_grad_(), weights[None]

    def prepare() -> Step:
        step(make(16), torch.randn(1, 16, width, requires_grad=True), torch.randn(1, 16, width))  # loads what is lazy
        return lambda: step(module, x, weights)

    return prepare


def search_tokjax(width: int) -> Callable[[], Step]:
    import jax.numpy as jnp

    from tokjax.kernels.nearest_code.api import nearest

    x, codebook, _ = map(jnp.asarray, inputs(K, width))

    def search(x: Any, codebook: Any) -> Any:
        codes = nearest(x, codebook)
        return (codes, (jnp.sum(codes.astype(jnp.float32)),)), ()

    return _compiled(search, x, codebook)


def search_torch(width: int) -> Callable[[], Step]:
    import torch

    x, codebook, _ = map(torch.tensor, inputs(K, width))
    search = lambda x, codebook: torch.sum(torch.cdist(x, codebook).argmin(dim=-1)).item()  # noqa: E731

    def prepare() -> Step:
        search(x[:16], codebook[:16])
        return lambda: search(x, codebook)

    return prepare


def search_numpy(width: int) -> Callable[[], Step]:
    x, codebook, _ = inputs(K, width)

    def search(x: np.ndarray, codebook: np.ndarray) -> float:
        cost = x @ codebook.T
        np.subtract(0.5 * np.sum(np.square(codebook), axis=-1), cost, out=cost)
        return float(np.sum(np.argmin(cost, axis=-1)))

    def prepare() -> Step:
        search(x[:16], codebook[:16])
        return lambda: search(x, codebook)

    return prepare


def ibq_tokjax(width: int) -> Callable[[], Step]:
    import jax
    import jax.numpy as jnp

    from tokjax.quantize import quantizer

    spec = quantizer(f"ibq:codes={IBQ_K}", width=width)
    x, codebook, weights = map(jnp.asarray, inputs(IBQ_K, width))

    def objective(codebook: jax.Array, x: jax.Array, weights: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        found = spec.quantize({"codebook": codebook}, {}, x, key, train=True)
        return jnp.sum(found.vectors * weights) + found.loss, (found.loss, found.codes)

    gradient = jax.value_and_grad(objective, argnums=(0, 1), has_aux=True)
    return _compiled(gradient, 0.1 * codebook, x, weights, jax.random.key(0))


def ibq_dense(width: int) -> Callable[[], Step]:
    """The same losses and gradients with the logits, their softmax and the one-hot codes as matrices [N, K]."""
    import jax
    import jax.numpy as jnp

    x, codebook, weights = map(jnp.asarray, inputs(IBQ_K, width))
    fixed = jax.lax.stop_gradient

    def objective(codebook: jax.Array, x: jax.Array, weights: jax.Array) -> tuple[jax.Array, Any]:
        logits = x @ codebook.T
        soft, codes = jax.nn.softmax(logits), jnp.argmax(logits, axis=-1)
        hard = jax.nn.one_hot(codes, IBQ_K)
        vectors, chosen = (hard - fixed(soft) + soft) @ codebook, hard @ codebook
        loss = jnp.mean(jnp.square(vectors - x)) + jnp.mean(jnp.square(fixed(chosen) - x))
        loss = loss + 0.25 * jnp.mean(jnp.square(chosen - fixed(x)))
        logs = jax.nn.log_softmax(100.0 * logits)
        mean = jnp.mean(jnp.exp(logs), axis=0)
        of_code = -jnp.mean(jnp.sum(jnp.exp(logs) * logs, axis=-1))
        loss = loss + 0.05 * (of_code + jnp.sum(mean * jnp.log(mean + 1e-30)))
        return jnp.sum(vectors * weights) + loss, (loss, codes)

    return _compiled(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True), 0.1 * codebook, x, weights)


CASES: dict[str, tuple[str, Callable[[int], Callable[[], Step]]]] = {  # name -> (measure, case)
    "tokjax vq": ("vq step", vq_tokjax),
    "vector-quantize-pytorch": ("vq step", vq_peer),
    "tokjax nearest": ("search", search_tokjax),
    "torch.cdist and argmin": ("search", search_torch),
    "numpy, all products": ("search", search_numpy),
    "tokjax ibq": ("ibq step", ibq_tokjax),
    "jax, all logits": ("ibq step", ibq_dense),
}


def _compiled(function: Callable, *arguments: Any) -> Callable[[], Step]:
    """Returns what compiles `function` ((value, (loss, ...)), gradients) of arrays, whose step returns the loss."""
    import jax

    jax.block_until_ready(arguments)

    def prepare() -> Step:
        compiled = jax.jit(function).lower(*arguments).compile()
        return lambda: float(jax.block_until_ready(compiled(*arguments))[0][1][0])

    return prepare


def resident(field: str) -> float:
    """Megabytes of this process: "VmRSS" now, "VmHWM" at most since `forget_peak`."""
    return int(pathlib.Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def forget_peak() -> None:
    """Gives freed pages back and makes the present resident size the highest so far."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def measure(name: str, width: int) -> dict[str, Any]:
    """Runs one case in this process."""
    prepare = CASES[name][1](width)
    forget_peak()
    start = resident("VmRSS")
    step = prepare()
    compiling = resident("VmHWM")
    forget_peak()
    before = resident("VmRSS")
    loss = step()
    peak = resident("VmHWM")
    seconds = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    found = {"loss": loss, "seconds": seconds, "peak_megabytes": peak - before}
    return found | {"megabytes_from_start": max(peak, compiling) - start}


def run(name: str, width: int, threads: int) -> dict[str, Any]:
    """Runs one case in a new process."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {**os.environ, **limits, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "benchmarks.quantizers", "--case", name, "--width", str(width)]
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(kind: str, width: int, rounds: int, threads: int) -> list[dict[str, Any]]:
    """Returns the rows of all cases that do the same, the first of which is ours."""
    names = [name for name, (measured, _) in CASES.items() if measured == kind]
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            taken[name].append(run(name, width, threads))
    rows = []
    for name, found in taken.items():
        # Losses are means of float32 sums of other orders; sums of codes differ by the few vectors between two codes.
        if not np.isclose(found[0]["loss"], taken[names[0]][0]["loss"], rtol=1e-3):
            raise SystemExit(f"{kind}: {name} has {found[0]['loss']}, {names[0]} {taken[names[0]][0]['loss']}")
        version = f" {importlib.metadata.version(name)}" if name == "vector-quantize-pytorch" else ""
        row: dict[str, Any] = {
            "measure": kind,
            "name": name + version,
            "vectors": N,
            "codes": IBQ_K if kind == "ibq step" else K,
        }
        row |= {"width": width, "seconds": statistics.median([s for one in found for s in one["seconds"]])}
        row |= {key: max(one[key] for one in found) for key in ("peak_megabytes", "megabytes_from_start")}
        rows.append(row | {"threads": threads, "rounds": rounds})
    for row in rows[1:]:
        row["speed_of_tokjax"] = row["seconds"] / rows[0]["seconds"]
        row["memory_of_tokjax"] = rows[0]["peak_megabytes"] / row["peak_megabytes"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantizers against their peers on a CPU.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--width", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.width)))
        return
    threads = len(os.sched_getaffinity(0))
    work = [(kind, width) for kind in ("vq step", "search") for width in WIDTHS] + [("ibq step", IBQ_D)]
    common.write("quantizers", [row for case in work for row in compare(*case, arguments.rounds, threads)])


if __name__ == "__main__":
    main()
