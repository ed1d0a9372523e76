"""Speed of the kernels against the time that the device's memory and matrix units need at least, in one run.

    python -m benchmarks.kernels [--rounds 5]

Runs on the device at hand: with the shapes of docs/kernels.md on an accelerator, with smaller ones on a CPU, where
there are no kernels and only XLA forms are compared. The limits are measured first, in the same process: bytes per
second of a copy, FLOPs per second of a large bfloat16 product (float32 on a CPU). `floor_ms` is the longer of the times
in which `megabytes`, the least an operation has to read and write, and `gigaflops` pass at these rates; `of_floor` is
the floor over the time taken. `vs_xla` is the time of the first XLA row of the same shape over this one's. Times are
medians of rounds that alternate between implementations, and then between peers: attention of `jax.nn` and, where they
are installed, of tokamax, the searches of vector-quantize-pytorch, whose codes are copied to the host each time, and,
on a CPU, of faiss. Training steps are measured on accelerators only: `mfu` is the FLOPs of their matrix products over
the rate of the large one. `slots_left_empty` is the share of slots that words of real text leave in blocks of 128.
Writes `kernels.json` and, of it, `docs/images/kernels.png`.
"""

import argparse
import functools
import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from tokjax.core.errors import SpecError
from tokjax.kernels.nearest_code.api import nearest
from tokjax.kernels.word_attention.api import word_attention
from tokjax.nn.attention import local_attention

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "kernels.png"
CPU = jax.default_backend() == "cpu"
DTYPE = jnp.float32 if CPU else jnp.bfloat16
ATTENTION = (1, 1024, 8, 64) if CPU else (8, 8192, 8, 64)  # B, S, H, K
SEARCHES = ((4096, 8192, 64), (4096, 65_536, 8)) if CPU else ((65_536, 8192, 64), (65_536, 65_536, 8))  # N, K, D
RESIDUAL = (4096, 1024, 128, 8) if CPU else (65_536, 1024, 128, 8)  # N, K, D, levels
TRAINING = (("lm", 8), ("hat", 4))  # recipes of about 400M parameters at `paper`, and rows of a batch
ROW = 2048  # symbols of the rows whose words are aligned
CALLS = 1 if CPU else 20  # queued at once, so that the time to start one does not count
Case = tuple[str, Callable, tuple[Any, ...]]


def seconds(step: Callable, arguments: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    results = [step(*arguments) for _ in range(CALLS)]
    jax.block_until_ready(results)
    return (time.perf_counter() - start) / CALLS


def limits() -> dict[str, float]:
    """Returns the highest rates that this device reaches here: bytes copied and FLOPs multiplied per second."""
    size, width = (2**26, 2048) if CPU else (2**30, 8192)
    x, square = jnp.ones(size // 4), jnp.ones((width, width), DTYPE)
    copy, product = jax.jit(lambda x: x + 1.0), jax.jit(lambda a: a @ a)
    copy(x).block_until_ready(), product(square).block_until_ready()
    return {
        "bytes_per_second": 2 * size / min(seconds(copy, (x,)) for _ in range(5)),
        "flops_per_second": 2 * width**3 / min(seconds(product, (square,)) for _ in range(5)),
    }


def attention_cases() -> Iterator[tuple[dict[str, Any], list[Case], list[Case]]]:
    """Yields operations, what is ours of each, and peers."""
    B, S, H, K = ATTENTION
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, d_out = (jax.random.normal(key, (B, S, H, K), DTYPE) for key in keys)
    ids = jnp.broadcast_to(jnp.arange(S) // 8 + 1, (B, S)).astype(jnp.int32)
    forms = {
        "XLA, one block": functools.partial(word_attention, query_ids=ids, causal=True, implementation="xla"),
        "XLA, neighbours": functools.partial(local_attention, segment_ids=ids, block=32, causal=True),
    }
    if not CPU:
        forms["kernel"] = functools.partial(word_attention, query_ids=ids, causal=True, implementation="pallas")
    seen = (ids[:, :, None] == ids[:, None, :])[:, None]
    peers = {"jax.nn, all pairs": functools.partial(jax.nn.dot_product_attention, mask=seen, is_causal=True)}
    if importlib.util.find_spec("tokamax"):
        import tokamax

        peers["tokamax, all pairs"] = functools.partial(tokamax.dot_product_attention, mask=seen, is_causal=True)
    one = B * S * H * K * jnp.dtype(DTYPE).itemsize
    pairs = 2.0 * B * S * 128 * H * K  # FLOPs of one product of blocks with blocks
    shape = {"shape": f"B{B} T{S} H{H} D{K}"}
    arrays = (q, k, v)
    forward = [[(name, form, arrays) for name, form in some.items()] for some in (forms, peers)]
    yield {"operation": "word attention", **shape, "bytes": 4 * one, "flops": 2 * pairs}, *forward

    def pull(form: Callable, *arrays: jax.Array) -> Any:
        return jax.vjp(form, *arrays[:3])[1](arrays[3])

    arrays = (q, k, v, d_out)
    backward = [
        [(name, functools.partial(pull, form), arrays) for name, form in some.items()] for some in (forms, peers)
    ]
    yield {"operation": "its gradient", **shape, "bytes": 7 * one, "flops": 5 * pairs}, *backward


def full_matrix(x: jax.Array, codebook: jax.Array) -> jax.Array:
    """What `nearest` does, with all distances at once."""
    offset = 0.5 * jnp.sum(jnp.square(codebook.astype(jnp.float32)), axis=-1)
    return jnp.argmin(offset - jnp.einsum("nd,kd->nk", x, codebook, preferred_element_type=jnp.float32), axis=-1)


def search_forms() -> dict[str, Callable]:
    precision = "float32" if CPU else "bfloat16"
    forms = {"XLA, all distances": full_matrix}
    forms["XLA, in tiles"] = functools.partial(nearest, precision=precision, implementation="xla")
    if jax.default_backend() == "gpu":
        forms["kernel"] = functools.partial(nearest, precision=precision, implementation="pallas")
        forms["kernel, float32"] = functools.partial(nearest, implementation="pallas")
    return forms


def search_peers(x: jax.Array, codebook: jax.Array) -> Iterator[Case]:
    """Yields the searches of other libraries, which take arrays of their own."""
    if importlib.util.find_spec("vector_quantize_pytorch"):
        import torch
        from vector_quantize_pytorch.vector_quantize_pytorch import cdist

        device, dtype = ("cpu", torch.float32) if CPU else ("cuda", torch.bfloat16)
        if device == "cpu" or torch.cuda.is_available():
            theirs = [torch.tensor(np.asarray(a, np.float32), dtype=dtype, device=device)[None] for a in (x, codebook)]
            yield "vector-quantize-pytorch", lambda x, codes: (-cdist(x, codes)).argmax(-1).cpu().numpy(), tuple(theirs)
    if CPU and importlib.util.find_spec("faiss"):
        import faiss

        index = faiss.IndexFlatL2(codebook.shape[1])
        index.add(np.asarray(codebook))
        yield "faiss", lambda x: index.search(x, 1)[1], (np.asarray(x),)


def search_cases() -> Iterator[tuple[dict[str, Any], list[Case], list[Case]]]:
    """As `attention_cases`."""
    size = jnp.dtype(DTYPE).itemsize
    for N, K, D in SEARCHES:
        x, codebook = (jax.random.normal(jax.random.key(i), (n, D), DTYPE) for i, n in enumerate((N, K)))
        about = {"operation": "nearest code", "shape": f"N{N} K{K} D{D}"}
        cost = {"bytes": (N + K) * D * size + 4 * N, "flops": 2.0 * N * K * D}
        forms = [(name, form, (x, codebook)) for name, form in search_forms().items()]
        yield about | cost, forms, list(search_peers(x, codebook))
    N, K, D, levels = RESIDUAL
    x = jax.random.normal(jax.random.key(0), (N, D), DTYPE)
    codebooks = jax.random.normal(jax.random.key(1), (levels, K, D), DTYPE)

    def residual(form: Callable, x: jax.Array, codebooks: jax.Array) -> jax.Array:
        def level(left: jax.Array, codebook: jax.Array) -> tuple[jax.Array, jax.Array]:
            codes = form(left, codebook)
            return left - codebook[codes], codes

        return jax.lax.scan(level, x, codebooks)[1]

    about = {"operation": "residual codes", "shape": f"N{N} {levels} x K{K} D{D}"}
    cost = {"bytes": (N + levels * K) * D * size + 4 * N * levels, "flops": 2.0 * N * K * D * levels}
    forms = search_forms().items()
    yield about | cost, [(name, functools.partial(residual, form), (x, codebooks)) for name, form in forms], []


def compare(
    about: dict[str, Any], ours: list[Case], peers: list[Case], rates: dict[str, float], rounds: int
) -> list[dict[str, Any]]:
    """Returns a row for each implementation of one operation."""
    steps, rows = {}, []
    for name, function, arguments in [*ours, *peers]:
        try:
            traced = isinstance(arguments[0], jax.Array)
            compiled = jax.jit(function).lower(*arguments).compile() if traced else function
            jax.block_until_ready(compiled(*arguments))
            steps[name] = (compiled, arguments)
        except (SpecError, jax.errors.JaxRuntimeError) as error:
            rows.append({**_names(about), "implementation": name, "error": str(error).splitlines()[0][:200]})
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for some in (ours, peers):
        for _, (name, *_) in itertools.product(range(rounds), some):
            if name in steps:
                taken[name].append(seconds(*steps[name]))
    floor = max(about["bytes"] / rates["bytes_per_second"], about["flops"] / rates["flops_per_second"])
    baseline = statistics.median(next(iter(taken.values())))
    for name, times in taken.items():
        median = statistics.median(times)
        rows.append(
            {
                **_names(about), "implementation": name, "megabytes": about["bytes"] / 1e6,
                "gigaflops": about["flops"] / 1e9, "floor_ms": 1e3 * floor, "ms": 1e3 * median,
                "of_floor": floor / median, "vs_xla": baseline / median,
            }
        )  # fmt: skip
        if hasattr(steps[name][0], "memory_analysis"):
            rows[-1]["temporary_mib"] = steps[name][0].memory_analysis().temp_size_in_bytes / 2**20
    return rows


def _names(about: dict[str, Any]) -> dict[str, Any]:
    return {key: about[key] for key in ("operation", "shape")}


def training(recipe: str, rows: int, rates: dict[str, float], rounds: int) -> dict[str, Any]:
    """Returns model FLOPs of a training step over what the device could multiply in its time."""
    from tokjax.core.spec import build
    from tokjax.experiment.abstract import abstract_batch, abstract_system, batch_flops
    from tokjax.experiment.config import load_config
    from tokjax.nn.param import count
    from tokjax.sharding import MeshSpec, make_mesh, use_mesh
    from tokjax.train import OptimizerSpec
    from tokjax.train.compile_cache import programs

    config = load_config(f"{recipe}:paper").to_dict()
    config["data"]["batch_size"] = rows
    if recipe == "hat":  # its paper's smallest is 1B: the width that gives 400M
        config["system"]["backbone"] |= {"width": 1280, "heads": 10}
    system = abstract_system(config)
    with use_mesh(make_mesh(MeshSpec(), jax.devices()[:1])) as mesh:
        made = programs(system, build(OptimizerSpec, config["optimizer"]), mesh)
        state = made.init(jax.random.key(0))
        batch = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), abstract_batch(system, config["data"]))
        step = made.compile_step(batch, jax.random.key(0))
        times = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            state, metrics = step(state, batch, jax.random.key(0), jnp.float32(1e-4))
            jax.block_until_ready(metrics.loss)
            times.append(time.perf_counter() - start)
    flops = 3.0 * batch_flops(system, config["data"])
    median = statistics.median(times[2:])
    return {
        "operation": "training step",
        "shape": f"{recipe}, {count(system.declare()) / 1e6:.0f}M, {rows} x {config['data']['length']}",
        "implementation": "chosen automatically", "gigaflops": flops / 1e9, "ms": 1e3 * median,
        "mfu": flops / median / rates["flops_per_second"],
    }  # fmt: skip


def empty_slots() -> Iterator[dict[str, Any]]:
    """Yields how many slots stay empty where no word of a corpus straddles a block."""
    from tokjax.data import load_source
    from tokjax.nn.packing import align_words, word_numbers
    from tokjax.text import fit_tokenizer
    from tokjax.text.words import END_OF_WORD

    for corpus in ("pydocs", "stdlib"):
        texts = load_source(corpus).split("test")
        for cap in (30, 64):
            tokenizer = fit_tokenizer("words", texts, cap=cap)
            ids = np.concatenate([tokenizer.encode(text) for text in itertools.islice(texts, 60)])
            ids = jnp.asarray(ids[: len(ids) // ROW * ROW].reshape(-1, ROW))
            words, _, _ = word_numbers(ids >= END_OF_WORD, jnp.ones_like(ids))
            layout = align_words(words, longest=cap + 1, block=128)
            used = jnp.max(layout.slot, axis=1) + 1
            yield {
                "operation": "aligned words",
                "shape": f"{corpus}, words of up to {cap} bytes, {len(ids)} rows of {ROW}",
                "slots_left_empty": float(1 - ROW / jnp.mean(used)),
                "positions_without_a_slot": int(jnp.sum(~layout.fits)),
            }


def draw(rows: list[dict[str, Any]]) -> None:
    """Draws the share of the floor that each implementation reaches."""
    import matplotlib.pyplot as plt

    shown = [row for row in rows if "of_floor" in row]
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(shown) + 1.2), layout="constrained")
    colors = ["tab:orange" if "kernel" in row["implementation"] else "tab:blue" for row in shown]
    axes.barh(range(len(shown)), [row["of_floor"] for row in shown], color=colors)
    axes.set_yticks(range(len(shown)), [f"{row['operation']} {row['shape']}: {row['implementation']}" for row in shown])
    axes.invert_yaxis()
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xlabel(f"least time over time taken, on {common.environment()['devices'][0]}")
    figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rates = limits()
    rows: list[dict[str, Any]] = [{"operation": "limits", **rates}]
    for cases in (attention_cases, search_cases):
        for about, ours, peers in cases():
            rows += compare(about, ours, peers, rates, rounds)
    rows += empty_slots()
    if not CPU:
        rows += [training(recipe, batch, rates, rounds) for recipe, batch in TRAINING]
    common.write("kernels", rows)
    draw(rows)


if __name__ == "__main__":
    main()
