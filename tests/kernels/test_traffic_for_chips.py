"""What is counted in programs of chips that are not here is what has to travel."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from tokjax.core.platform import compiling_for
from tokjax.measure.programs import program_cost
from tokjax.sharding import MeshSpec, make_mesh
from tokjax.sharding.topologies import chips, why_not


@pytest.mark.parametrize(("topology", "devices"), [("v5e:4x4", 16), ("v5p:2x2x4", 16), ("h100:8", 8)])
def test_layers_whose_weights_are_split_receive_the_other_parts_of_each(topology, devices, compiled):
    """Counted in the program: on TPUs parts go from neighbour to neighbour, in 17 rounds, not the 15 there must be."""
    if reason := why_not(topology):
        compiled(f"not compiled: layers with split weights for {reason}")
        pytest.skip(reason)
    layers, width, columns = 6, 2048, 8192
    gpu = topology.startswith("h100")
    with compiling_for("gpu" if gpu else "tpu"):
        mesh = make_mesh(MeshSpec(data=1, fsdp=devices), chips(topology))

        def array(*shape, axis):
            spec = PartitionSpec(*("fsdp" if at == axis else None for at in range(len(shape))))
            return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=jax.NamedSharding(mesh, spec))

        def forward(x, weights):
            def layer(x, weight):
                y = x @ weight
                return jnp.tanh(y[:, :width] + y[:, -width:]), None

            return jax.lax.scan(layer, x, weights)[0]

        rows, weights = array(512 * devices, width, axis=0), array(layers, width, columns, axis=1)
        lowered = jax.jit(forward, out_shardings=rows.sharding).lower(rows, weights)
        options = {"xla_gpu_autotune_level": 0} if gpu else {}
        found = program_cost(lowered.compile(compiler_options=options)).received_bytes
    (received,) = found.values()
    assert 1 <= received / (layers * width * columns * 2 * (devices - 1) / devices) <= (1 if gpu else 17 / 15)
    compiled(f"layers with split weights: {topology}, {received / 2**20:.0f} MiB received")
