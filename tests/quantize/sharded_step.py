"""Prints, for each quantizer, how far a training step on eight devices is from the same step on one."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.nn.param import materialize
from tokjax.quantize import quantizer
from tokjax.sharding import MeshSpec, make_mesh, put_batch, use_mesh

for text in sys.argv[1:]:
    spec = quantizer(text, width=4)
    params, state = materialize(spec.declare(), jax.random.key(1)), spec.init_state(jax.random.key(2))
    x, mask = jax.random.normal(jax.random.key(3), (16, 10, 4)), jnp.arange(160).reshape(16, 10) % 3 > 0

    def step(params, state, x, mask, spec=spec):
        found = spec.quantize(params, state, x, jax.random.key(4), mask=mask, train=True)
        return found, jax.grad(lambda p: spec.quantize(p, state, x, jax.random.key(4), mask=mask, train=True).loss)(
            params
        )

    one = jax.jit(step)(params, state, x, mask)
    mesh = make_mesh(MeshSpec(data=8))
    with use_mesh(mesh):
        rows = put_batch({"x": np.asarray(x), "mask": np.asarray(mask)}, mesh)
        assert len(rows["x"].sharding.device_set) == 8
        many = jax.jit(step)(params, state, rows["x"], rows["mask"])
    same_codes = bool((np.asarray(one[0].codes) == np.asarray(many[0].codes)).all())
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    print(json.dumps([text, same_codes, max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)]))
