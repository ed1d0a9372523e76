"""Speed of one training step on a CPU against the same model in PyTorch, in one run.

    python -m benchmarks.train_step [--rounds 8]

Both are a decoder-only byte model (RMS norm, rotary positions, SwiGLU, causal attention, untied read-out) in float32
with AdamW, written independently. tokjax runs its own `Lm` and training step, with the accuracy and the norms that it
reports; PyTorch runs `scaled_dot_product_attention` and each of its AdamW implementations, and reports the loss.
Every row is a process of its own on the same two cores, and rounds alternate between them. `wall_vs_*` and `cpu_vs_*`
are PyTorch's best row over this one (above 1, this one is faster): the fastest step in wall-clock seconds, and in CPU
seconds, which count PyTorch's waiting threads as busy. Run it on an idle machine: contention slows PyTorch's spinning
threads more than XLA's. `load_before` is the load average when it started.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import common

WIDTH, LAYERS, HEADS, HIDDEN = 256, 6, 4, 704
BATCH, LENGTH, VOCABULARY, THREADS = 8, 512, 257, 2
RATE, BETAS, DECAY = 1e-3, (0.9, 0.95), 0.1
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
ROWS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {  # name -> (library, options, environment)
    "pytorch eager, fused AdamW": ("pytorch", {"optimizer": "fused"}, {}),
    "pytorch eager, foreach AdamW": ("pytorch", {"optimizer": "foreach"}, {}),
    "pytorch compiled, fused AdamW": ("pytorch", {"optimizer": "fused", "compiled": True}, {}),
    "tokjax": ("tokjax", {}, {}),
    "tokjax, dense attention": ("tokjax", {"attention": "xla"}, {}),
    "tokjax, scan over layers": ("tokjax", {"scan_layers": True}, {}),
    "tokjax, huge pages": ("tokjax", {}, HUGE_PAGES),
}


def tokjax_step(**backbone: Any) -> Callable[[], float]:
    """Returns a function that makes one update of `Lm` and returns the loss."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tokjax.core.types import Batch
    from tokjax.nn import param
    from tokjax.nn.transformer import TransformerSpec
    from tokjax.systems.language.lm import Lm
    from tokjax.train.optimizer import OptimizerSpec, make_transform
    from tokjax.train.state import initializer
    from tokjax.train.step import make_step

    stack = TransformerSpec(width=WIDTH, layers=LAYERS, heads=HEADS, hidden=HIDDEN, **backbone)
    system = Lm(vocab_size=VOCABULARY, backbone=stack, tied=False)
    optimizer = OptimizerSpec(
        learning_rate=RATE, schedule="constant", weight_decay=DECAY, b1=BETAS[0], b2=BETAS[1], clip_norm=None
    )
    transform = make_transform(optimizer, param.decay_mask(system.declare()))
    ids, targets = np.random.default_rng(0).integers(0, VOCABULARY, (2, BATCH, LENGTH), np.int32)
    batch = Batch(
        ids=jnp.asarray(ids),
        targets=jnp.asarray(targets),
        loss_mask=jnp.ones((BATCH, LENGTH), jnp.float32),
        segment_ids=jnp.ones((BATCH, LENGTH), jnp.int32),
        positions=jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (BATCH, 1)),
        units=jnp.ones((BATCH, LENGTH), jnp.int32),
    )
    key = jax.random.key(0)
    state = jax.jit(initializer(system, transform, ema=False))(key)
    update = jax.jit(make_step(system, transform, optimizer), donate_argnums=0)

    def step() -> float:
        nonlocal state
        state, metrics = update(state, batch, key, np.float32(RATE))
        return float(metrics.loss)

    return step


def pytorch_step(*, optimizer: str, compiled: bool = False) -> Callable[[], float]:
    """Returns a function that makes one update of the PyTorch model and returns the loss."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    head_dim = WIDTH // HEADS
    frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    angles = torch.arange(LENGTH)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.mlp_norm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
            self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
            self.out = nn.Linear(WIDTH, WIDTH, bias=False)
            self.gate_up = nn.Linear(WIDTH, 2 * HIDDEN, bias=False)
            self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            fused = self.query_key_value(self.attention_norm(x)).view(BATCH, LENGTH, 3, HEADS, head_dim)
            query, key, value = fused.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH))
            gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
            return x + self.down(F.silu(gate) * up)

    model = nn.Sequential(
        nn.Embedding(VOCABULARY, WIDTH),
        *(Block() for _ in range(LAYERS)),
        nn.RMSNorm(WIDTH),
        nn.Linear(WIDTH, VOCABULARY, bias=False),
    )
    adamw = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, weight_decay=DECAY, **{optimizer: True})
    ids, targets = torch.randint(0, VOCABULARY, (2, BATCH, LENGTH))

    def objective() -> torch.Tensor:
        return F.cross_entropy(model(ids).view(-1, VOCABULARY), targets.view(-1))

    forward = torch.compile(objective) if compiled else objective

    def step() -> float:
        adamw.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        adamw.step()
        return loss.item()

    return step


def serve(name: str) -> None:
    """Builds the row's step, says so, then times one step for every line of input: "wall seconds, CPU seconds"."""
    library, options, _ = ROWS[name]
    if hasattr(os, "sched_setaffinity"):  # XLA starts a thread per core that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # compilers may print
    step = {"tokjax": tokjax_step, "pytorch": pytorch_step}[library](**options)
    losses = [step() for _ in range(3)]
    if not losses[-1] < losses[0]:
        raise SystemExit(f"{name}: the loss does not fall: {losses}.")
    print("ready", file=replies, flush=True)
    for _ in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        step()
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(wall, cpu, file=replies, flush=True)


def start(name: str) -> subprocess.Popen[str] | None:
    """Starts the row's process; None where it cannot run here (no compiler for torch.compile)."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(THREADS), **ROWS[name][2]}
    command = [sys.executable, "-m", "benchmarks.train_step", "--serve", name]
    process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    if process.stdout.readline().strip() == "ready":
        return process
    process.wait()
    print(f"{name}: cannot run here")
    return None


def measure(names: list[str], rounds: int) -> list[dict[str, Any]]:
    """Times every row in alternation, two steps a turn, the first of which only warms the caches."""
    load = os.getloadavg()[0]  # other work: well below 1 on a machine whose wall-clock times can be believed
    processes = {name: process for name in names if (process := start(name)) is not None}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            for warm in (False, True):
                assert process.stdin is not None and process.stdout is not None
                print(file=process.stdin, flush=True)
                wall, cpu = map(float, process.stdout.readline().split())
                if warm:
                    samples[name].append((wall, cpu))
    for process in processes.values():
        process.communicate()
    rows: list[dict[str, Any]] = []
    for name, taken in samples.items():
        walls, cpus = zip(*taken, strict=True)
        rows.append(
            {
                "name": name,
                "tokens_per_second": BATCH * LENGTH / min(walls),
                "wall_seconds": min(walls),
                "wall_seconds_median": statistics.median(walls),
                "cpu_seconds": min(cpus),
                "rounds": rounds,
                "load_before": load,
            }
        )
    for peer in ("eager", "compiled"):
        peers = [row for row in rows if row["name"].startswith(f"pytorch {peer}")]
        for clock in ("wall", "cpu") if peers else ():
            best = min(row[f"{clock}_seconds"] for row in peers)
            for row in rows:
                row[f"{clock}_vs_{peer}"] = best / row[f"{clock}_seconds"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Training step against PyTorch on a CPU.")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--serve", choices=ROWS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
    else:
        common.write("train_step", measure(arguments.rows, arguments.rounds))


if __name__ == "__main__":
    main()
