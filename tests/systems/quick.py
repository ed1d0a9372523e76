"""Small systems in little time: parameters without a program that draws them, programs that compile faster than run."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.nn.param import Param

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def draw_params(declared, gain=1.5, seed=0):
    """Arrays of the declared shapes, wide enough that every path matters; biases and norms are not trivial."""
    generator = np.random.default_rng(seed)

    def draw(path, param):
        names = {str(entry.key) for entry in path}
        noise = generator.standard_normal(param.shape, np.float32)
        if names & {"scale", "bias"}:
            return jnp.asarray(0.2 * noise + ("scale" in names))
        inputs = param.shape[-1]  # of a table, whose vectors are then of that variance
        if "kernel" in names:
            inputs = math.prod(param.shape[1 if "layers" in param.axes else 0 : -1])
        return jnp.asarray(gain * noise / math.sqrt(inputs))

    return jax.tree_util.tree_map_with_path(draw, declared, is_leaf=lambda x: isinstance(x, Param))
