"""Attention of the slots of packed words: each sees its own word, which never straddles an aligned block of slots.

Letters: `B` batch, `S` slots, `H` query heads, `G` key heads, `K` head width.
"""

import functools
from types import ModuleType

import jax
import jax.numpy as jnp

from tokjax.core import platform
from tokjax.core.errors import SpecError
from tokjax.kernels import dispatch
from tokjax.kernels.word_attention import pallas_gpu, pallas_tpu
from tokjax.kernels.word_attention.reference import BLOCK, word_attention_xla
from tokjax.sharding import over_mesh

_HEADS = ("batch", "length", "kv_heads", None)  # of queries too: they are where their key head is
_IDS = ("batch", "length")


def word_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    query_ids: jax.Array,
    key_ids: jax.Array | None = None,
    causal: bool,
    implementation: str | None = None,
) -> jax.Array:
    """Attends within words: softmax(q k^T / sqrt(K)) v over the slots of the same word, softmax in float32.

    A word is the slots of one block of 128 that share an id; `nn.packing.align_words` lays rows out so that none
    straddles a block. With one tile per block there is neither a neighbour to read nor an online softmax.

    Args:
      q: [B, S, H, K], S a multiple of 128.
      k: [B, S, G, K] with H a multiple of G; consecutive query heads share a key head.
      v: [B, S, G, K].
      query_ids: int32 [B, S], the word of each slot; 0 is padding, which sees nothing and gives zeros.
      key_ids: int32 [B, S], the word in which each slot is seen, 0 in none: so that slots may pool a word that does
        not see them. `query_ids` by default.
      causal: whether a slot sees only itself and what comes before.
      implementation: `xla`, or `pallas`, a kernel for TPUs and for GPUs of the Hopper generation (on a CPU it is
        interpreted, for tests). None takes the kernel where it compiles.

    Returns:
      [B, S, H, K] in q's dtype. The kernels have no forward-mode derivative.

    Raises:
      SpecError: shapes that do not fit, or an implementation that is unknown or cannot run here.
    """
    key_ids = query_ids if key_ids is None else key_ids
    _check(q, k, v, query_ids, key_ids)
    arrays = (q, k, v, query_ids, key_ids)
    # Of one row of one block: the kernel is the same for more of them, which may be a whole pod's.
    shapes = tuple(jax.ShapeDtypeStruct((1, BLOCK, *x.shape[2:]), x.dtype) for x in arrays)

    def trial() -> object:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array) -> jax.Array:
            return jnp.sum(_kernel(q, k, v, *ids, causal).astype(jnp.float32))

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*shapes).compile()

    chosen = dispatch.choose(
        "word_attention",
        implementation,
        unsupported=lambda where: _backend(where).unsupported(q.shape, k.shape, q.dtype),
        trial=trial,
        shapes=(*((x.shape, str(x.dtype)) for x in shapes), causal),
    )
    if chosen == "xla":
        return word_attention_xla(*arrays, causal=causal)
    return _kernel(*arrays, causal)


def _check(q: jax.Array, k: jax.Array, v: jax.Array, query_ids: jax.Array, key_ids: jax.Array) -> None:
    B, S = q.shape[:2]
    if k.shape != v.shape or q.ndim != 4 or k.ndim != 4 or k.shape[:2] != (B, S) or q.shape[3] != k.shape[3]:
        raise SpecError(f"q {q.shape}, k {k.shape}, v {v.shape}: expected [B, S, H, K], [B, S, G, K], [B, S, G, K].")
    if q.shape[2] % k.shape[2]:
        raise SpecError(f"heads: {q.shape[2]} query heads cannot share {k.shape[2]} key heads; use a multiple.")
    if query_ids.shape != (B, S) or key_ids.shape != (B, S):
        raise SpecError(f"query_ids {query_ids.shape}, key_ids {key_ids.shape}: expected {(B, S)}, as of q.")
    if S % BLOCK:
        raise SpecError(f"slots: {S} is no multiple of {BLOCK}; lay rows out by nn.packing.align_words.")


def _backend(where: str) -> ModuleType:
    return pallas_gpu if where == "gpu" else pallas_tpu


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _kernel(q: jax.Array, k: jax.Array, v: jax.Array, query_ids: jax.Array, key_ids: jax.Array, causal: bool):
    where = platform.target()
    run = functools.partial(_backend(where).forward, causal=causal, interpret=where == "cpu")
    inputs = (_HEADS, _HEADS, _HEADS, _IDS, _IDS)
    return over_mesh(run, inputs, _HEADS, whole={"length": BLOCK})(q, k, v, query_ids, key_ids)


def _kernel_forward(q, k, v, query_ids, key_ids, causal):
    return _kernel(q, k, v, query_ids, key_ids, causal), (q, k, v, query_ids, key_ids)


def _kernel_backward(causal, saved, d_out):
    where = platform.target()
    run = functools.partial(_backend(where).backward, causal=causal, interpret=where == "cpu")
    inputs = (_HEADS, _HEADS, _HEADS, _IDS, _IDS, _HEADS)
    gradients = over_mesh(run, inputs, (_HEADS, _HEADS, _HEADS), whole={"length": BLOCK})(*saved, d_out)
    return *gradients, None, None


_kernel.defvjp(_kernel_forward, _kernel_backward)
