"""What test_kernels_on_meshes.py runs in a process with eight simulated devices. Prints one JSON line per check."""

import functools
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.kernels.nearest_code.api import nearest
from tokjax.kernels.word_attention.api import word_attention
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec, declare_transformer
from tokjax.nn.word_stack import word_stack
from tokjax.sharding import MeshSpec, make_mesh, sharding_of, use_mesh

HEADS = ("batch", "length", "kv_heads", None)


def gathered(compiled):
    """Shapes of what a compiled program gathers from other devices."""
    results = re.findall(r"= (.*?) all-gather(?:-start)?\(", compiled.as_text())
    shapes = [shape for result in results for shape in re.findall(r"\w\[([\d,]*)\]", result)]
    return [[int(n) for n in shape.split(",") if n] for shape in shapes]


def numbers(shapes):
    return sum(map(math.prod, shapes))


def put(mesh, array, axes):
    return jax.device_put(array, sharding_of(axes, array.shape, mesh, name="array"))


def attention(name, spec, heads=4, groups=4, slots=512, expected_parts=8):
    shapes = [(4, slots, h, 16) for h in (heads, groups, groups)]
    arrays = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    ids = jnp.broadcast_to(jnp.arange(slots) // 8 + 1, (4, slots)).astype(jnp.int32)

    def loss(q, k, v, ids, implementation):
        out = word_attention(q, k, v, query_ids=ids, causal=True, implementation=implementation)
        return jnp.sum(out**2), out

    step = lambda i: jax.jit(jax.grad(functools.partial(loss, implementation=i), (0, 1, 2), has_aux=True))  # noqa: E731
    expected_gradients, expected = step("pallas")(*arrays, ids)  # by one device
    mesh = make_mesh(spec)
    even = heads % 2 == 0 and groups % 2 == 0
    axes = HEADS if even else ("batch", "length", None, None)
    with use_mesh(mesh):
        laid = [put(mesh, x, axes) for x in arrays] + [put(mesh, ids, ("batch", "length"))]
        compiled = step("pallas").lower(*laid).compile()
        gradients, out = compiled(*laid)
    errors = [np.abs(np.asarray(a) - b).max() for a, b in zip(gradients, expected_gradients, strict=True)]
    print(json.dumps({
        "operation": name, "mesh": str(spec), "error": float(np.abs(np.asarray(out) - expected).max()),
        "gradient_error": float(max(errors)), "parts": out.size // out.addressable_shards[0].data.size,
        "expected_parts": expected_parts, "gathers": gathered(compiled),
    }))  # fmt: skip


def codes(spec, implementation, codes_axis=None):
    x = jax.random.normal(jax.random.key(0), (512, 16))
    codebook = jnp.tile(jax.random.normal(jax.random.key(1), (128, 16)), (2, 1))  # every code twice, in both parts
    mesh = make_mesh(spec)
    with use_mesh(mesh):
        laid = put(mesh, x, ("batch", None)), put(mesh, codebook, (codes_axis, None))
        find = jax.jit(functools.partial(nearest, codes_axis=codes_axis, implementation=implementation))
        compiled = find.lower(*laid).compile()
        found = compiled(*laid)
    rows = mesh.shape["data"] * mesh.shape["fsdp"]
    print(json.dumps({
        "operation": "nearest_split" if codes_axis else "nearest", "mesh": str(spec),
        "equal": bool(np.array_equal(found, nearest(x, codebook))), "gathers": gathered(compiled),
        "parts": found.size // found.addressable_shards[0].data.size, "expected_parts": rows,
        "gathered_numbers": numbers(gathered(compiled)), "expected_numbers": 2 * mesh.shape["tensor"] * 512 // rows,
    }))  # fmt: skip


def stack():
    """A stack over words whose rows two devices split: blocks are split too, whatever their number."""
    spec = TransformerSpec(width=16, layers=1, heads=2, attention="pallas")
    params = materialize(declare_transformer(spec), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 2048, 16))
    word = jnp.broadcast_to(jnp.arange(2048) // 7 + 1, (4, 2048)).astype(jnp.int32)

    def run(x, word):
        return word_stack(spec, params, x, jnp.arange(2048), word, longest=17, block=32, causal=True)[0]

    expected = jax.jit(run)(x, word)
    mesh = make_mesh(MeshSpec(data=4, sequence=2))
    with use_mesh(mesh):
        laid = put(mesh, x, ("batch", "length", None)), put(mesh, word, ("batch", "length"))
        compiled = jax.jit(run).lower(*laid).compile()
        out = compiled(*laid)
    heads = [shape for shape in gathered(compiled) if len(shape) == 4]  # queries, keys and values have heads
    error = float(np.abs(np.asarray(out) - expected).max())
    print(json.dumps({"operation": "word_stack", "error": error, "gathers": heads}))


def main():
    assert len(jax.devices()) == 8
    attention("word_attention", MeshSpec(data=4, tensor=2))
    attention("word_attention", MeshSpec(data=2, fsdp=2, sequence=2))
    attention("word_attention", MeshSpec(data=2, tensor=2, sequence=2), heads=8, groups=2)
    attention("uneven", MeshSpec(data=4, tensor=2), heads=3, groups=3, expected_parts=4)
    stack()
    for implementation in ("xla", "pallas"):
        codes(MeshSpec(data=4, fsdp=2), implementation)
        codes(MeshSpec(data=4, tensor=2), implementation, codes_axis="vocab")


if __name__ == "__main__":
    main()
