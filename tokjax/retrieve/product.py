"""An index of product-quantized vectors: a few bytes each, searched by their largest products with a query.

Source: Jégou, Douze & Schmid 2011, with products in place of distances.

Letters: `N` vectors, `D` width, `M` parts, `K` codes of a part, `Q` queries.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError
from tokjax.core.spec import check
from tokjax.kernels.nearest_code.api import nearest
from tokjax.quantize.codebook import kmeans

_CHUNK = 16_384  # vectors that are decoded at once


@functools.partial(jax.tree_util.register_dataclass, data_fields=("codebooks", "codes"), meta_fields=())
@dataclasses.dataclass(frozen=True, eq=False)
class ProductIndex:
    """Vectors of which only codes are kept.

    Attributes:
      codebooks: float32 [M, K, D / M].
      codes: [N, M], uint8 for up to 256 codes, else uint16.
    """

    codebooks: jax.Array
    codes: jax.Array

    @property
    def nbytes(self) -> int:
        """Bytes of the index, codebooks included."""
        return self.codes.nbytes + self.codebooks.nbytes


def build_index(
    vectors: jax.Array, *, parts: int, codes: int = 256, key: jax.Array, train: int = 65_536, iterations: int = 10
) -> ProductIndex:
    """Clusters each part of the channels by k-means, and keeps the nearest code of every vector.

    Args:
      vectors: [N, D]; of unit length for a search by cosine.
      parts: M, a divisor of D; the bytes of a vector where K is up to 256.
      codes: K, 1 to 65,536.
      key: of the draws that k-means begins with.
      train: vectors that are clustered at most, evenly spaced among all.
      iterations: of k-means.

    Raises:
      SpecError: parts that do not divide D, no vectors, or an impossible number of codes, of vectors to train on
        or of iterations.
    """
    if vectors.ndim != 2 or not vectors.size:
        raise SpecError(f"vectors: got the shape {vectors.shape}; an index needs [N, D] with at least one vector.")
    count, width = vectors.shape
    check(parts >= 1 and width % parts == 0, "parts", parts, f"must divide the width {width}.")
    check(1 <= codes <= 1 << 16, "codes", codes, "use 1 to 65536.")
    check(train >= 1, "train", train, "use at least 1.")
    check(iterations >= 1, "iterations", iterations, "use at least 1.")
    sample = vectors[:: -(-count // train)]
    return _build(vectors, sample, key, parts, codes, iterations)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _build(
    vectors: jax.Array, sample: jax.Array, key: jax.Array, parts: int, codes: int, iterations: int
) -> ProductIndex:
    def cluster(inputs: tuple[jax.Array, jax.Array]) -> jax.Array:
        z, own = inputs
        return kmeans(z, jnp.ones(len(z), bool), codes, own, iterations=iterations)[0]

    codebooks = jax.lax.map(cluster, (_cut(sample, parts), jax.random.split(key, parts)))
    return ProductIndex(codebooks, encode(codebooks, vectors))


def encode(codebooks: jax.Array, vectors: jax.Array) -> jax.Array:
    """Returns the codes [N, M] of `vectors` [N, D]: of each part the nearest, the lowest of those equally near."""
    parts, codes, _ = codebooks.shape
    found = jax.lax.map(lambda inputs: nearest(*inputs), (_cut(vectors, parts), codebooks))
    return found.T.astype(jnp.uint8 if codes <= 1 << 8 else jnp.uint16)


def decode(codebooks: jax.Array, codes: jax.Array) -> jax.Array:
    """Returns what `codes` [N, M] stand for, float32 [N, D]."""
    each = jax.vmap(lambda codebook, code: codebook[code], in_axes=(0, 1), out_axes=1)
    return each(codebooks, codes.astype(jnp.int32)).reshape(len(codes), -1)


def search(index: ProductIndex, queries: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Finds the vectors of the largest products with each query; of equal ones, those that stand first.

    Codes are decoded 16,384 at a time, so that memory grows with Q and not with N.

    Args:
      index: what is searched.
      queries: [Q, D].
      k: how many are wanted, 1 to N.

    Returns:
      (products float32 [Q, k], largest first; which vectors int32 [Q, k]).

    Raises:
      SpecError: queries of another width, or k out of range.
    """
    parts, _, width = index.codebooks.shape
    if queries.ndim != 2 or queries.shape[1] != parts * width:
        raise SpecError(f"queries: got the shape {queries.shape}; this index takes [Q, {parts * width}].")
    check(1 <= k <= len(index.codes), "k", k, f"the index has {len(index.codes)} vectors.")
    return _search(index, queries.astype(jnp.float32), k)


@functools.partial(jax.jit, static_argnums=2)
def _search(index: ProductIndex, queries: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    count, chunk = len(index.codes), min(_CHUNK, len(index.codes))

    def read(best: tuple[jax.Array, jax.Array], first: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        start = jnp.minimum(first, count - chunk)  # the last chunk begins among vectors that were read before
        codes = jax.lax.dynamic_slice_in_dim(index.codes, start, chunk)
        ids = start + jnp.arange(chunk, dtype=jnp.int32)
        products = jnp.matmul(queries, decode(index.codebooks, codes).T, precision=jax.lax.Precision.HIGHEST)
        products = jnp.concatenate([best[0], jnp.where(ids >= first, products, -jnp.inf)], axis=1)
        ids = jnp.concatenate([best[1], jnp.broadcast_to(ids, (len(queries), chunk))], axis=1)
        products, places = jax.lax.top_k(products, k)
        return (products, jnp.take_along_axis(ids, places, axis=1)), None

    start = (jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1, jnp.int32))
    return jax.lax.scan(read, start, jnp.arange(0, count, chunk, dtype=jnp.int32))[0]


def _cut(vectors: jax.Array, parts: int) -> jax.Array:
    """The channels of each part, float32 [M, N, D / M]."""
    return vectors.astype(jnp.float32).reshape(len(vectors), parts, -1).swapaxes(0, 1)
