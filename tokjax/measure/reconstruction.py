"""What an image tokenizer keeps of images, and what that costs.

Letters: `N` images, `T` codes of an image, `K` codes there are, `S` size of an image.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.data.images import ImageBatch
from tokjax.measure import codes as of_codes
from tokjax.measure.distances import Distance, frechet_distance, kernel_distance
from tokjax.measure.features import Features, extract, random_pyramid
from tokjax.measure.images import mean_squared_error, psnr, ssim
from tokjax.objectives.image import ImageTokenizer
from tokjax.quantize import NO_CODE
from tokjax.sharding import gathered, place

_RANGE = (-1.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageEvaluation:
    """Distortion and rate over whole images.

    Attributes:
      images: N.
      tokens: codes of an image that were decoded.
      squared_error: mean over images of the mean squared error, of pixels from -1 to 1.
      psnr: mean over images, decibels.
      ssim: mean over images.
      frechet, kernel: distances of the reconstructions from the images.
      nominal_bits: of an image, all codes equally likely.
      coded_bits: of an image, when its codes are coded by how often each occurs, learned as they go.
      codes_used: share of the K codes that occur.
      perplexity: e to the entropy of the codes.
    """

    images: int
    tokens: int
    squared_error: float
    psnr: float
    ssim: float
    frechet: Distance
    kernel: Distance
    nominal_bits: float
    coded_bits: float
    codes_used: float
    perplexity: float

    def summary(self) -> dict[str, int | float | str]:
        """Returns what a list of results shows, distances by their labels and with what they depend on."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        frechet, kernel = values.pop("frechet"), values.pop("kernel")
        named = {found.label: found.value for found in (frechet, kernel)}
        return values | named | {"features": f"{frechet.extractor} {frechet.fingerprint}"}


@functools.lru_cache(maxsize=32)
def _programs(system: ImageTokenizer) -> tuple[Callable[..., jax.Array], Callable[..., jax.Array]]:
    return (
        jax.jit(lambda params, state, pixels: gathered(system.encode(params, state, pixels))),
        jax.jit(lambda params, state, codes, key: gathered(system.decode(params, state, codes, key))),
    )


def encode_images(
    system: ImageTokenizer, params: Params, state: Params, batches: Iterable[ImageBatch]
) -> Iterator[np.ndarray]:
    """Yields the codes int32 [n, T] of the images of each batch; rows that only pad it are left out."""
    encode, _ = _programs(system)
    for batch in batches:
        yield np.asarray(encode(params, state, place(batch.pixels)))[np.asarray(batch.mask) > 0]


def decode_images(
    system: ImageTokenizer, params: Params, state: Params, codes: np.ndarray, *, batch_size: int, seed: int = 0
) -> np.ndarray:
    """Returns the images float32 [N, S, S, C], from -1 to 1, of `codes` int [N, T]; see `decoded_parts`."""
    nothing = np.zeros((0, system.size, system.size, system.channels), np.float32)
    return np.concatenate([nothing, *decoded_parts(system, params, state, codes, batch_size=batch_size, seed=seed)])


def decoded_parts(
    system: ImageTokenizer, params: Params, state: Params, codes: np.ndarray, *, batch_size: int, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yields the images float32 [n, S, S, C], from -1 to 1, of `codes` int [N, T], `batch_size` at a time.

    Args:
      system: the tokenizer.
      params: its parameters.
      state: what gradients did not train of it.
      codes: where the system is `ordered`, all from some place on may be `NO_CODE`.
      batch_size: images decoded at once.
      seed: of what decoding draws; an image's draws depend on its place in its batch.

    Raises:
      SourceError: codes of another number or out of range.
    """
    codes = np.asarray(codes)
    lowest = NO_CODE if system.ordered else 0
    if codes.ndim != 2 or codes.shape[1] != system.tokens or not np.issubdtype(codes.dtype, np.integer):
        raise SourceError(f"codes: got {codes.dtype} of shape {codes.shape}; give integers [N, {system.tokens}].")
    if codes.size and not (lowest <= codes.min() and codes.max() < system.vocab_size):
        found = f"from {codes.min()} to {codes.max()}"
        raise SourceError(f"codes: {found}; this tokenizer has {lowest} to {system.vocab_size - 1}. Use its own codes.")
    _, decode = _programs(system)
    for number, start in enumerate(range(0, len(codes), batch_size)):
        part = codes[start : start + batch_size].astype(np.int32)
        padded = np.pad(part, ((0, batch_size - len(part)), (0, 0)))
        key = jax.random.fold_in(jax.random.key(seed), number)
        images = np.asarray(decode(params, state, place(padded), key), np.float32)[: len(part)]
        yield np.clip(images, *_RANGE)


def evaluate_images(
    system: ImageTokenizer,
    params: Params,
    state: Params,
    batches: Iterable[ImageBatch],
    *,
    name: str,
    features: Features | None = None,
    keep: int | None = None,
    seed: int = 0,
) -> ImageEvaluation:
    """Encodes and decodes every image of `batches` and measures what is left.

    Args:
      system: the tokenizer.
      params: its parameters.
      state: what gradients did not train of it.
      batches: the images, as `eval_images` gives them.
      name: of the set of images, for distances.
      features: what looks at them for distances; random filters by default.
      keep: decode the first codes only, so many of them; for `ordered` systems.
      seed: of what decoding draws.

    Raises:
      SpecError: `keep` of a system that is not ordered, or of more codes than there are.
      SourceError: there are fewer than two images.
    """
    tokens = system.tokens if keep is None else keep
    check(1 <= tokens <= system.tokens, "keep", keep, f"use 1 to {system.tokens}.")
    fix = "the codes of this tokenizer have no order; use all of them."
    check(keep in (None, system.tokens) or system.ordered, "keep", keep, fix)
    features = random_pyramid(system.channels) if features is None else features
    batches = list(batches)
    pixels = np.concatenate([batch.pixels[np.asarray(batch.mask) > 0] for batch in batches])
    if len(pixels) < 2:
        raise SourceError(f"{name}: {len(pixels)} images; distances need at least 2.")
    size = len(batches[0].pixels)
    codes = np.concatenate(list(encode_images(system, params, state, batches)))
    codes[:, tokens:] = NO_CODE
    decoded = decode_images(system, params, state, codes, batch_size=size, seed=seed)
    parts = [slice(start, start + size) for start in range(0, len(pixels), size)]
    pairs = [(jnp.asarray(decoded[part]), jnp.asarray(pixels[part])) for part in parts]
    squared = np.concatenate([mean_squared_error(x, y) for x, y in pairs])
    decibels = np.concatenate([psnr(x, y, value_range=_RANGE) for x, y in pairs])
    # SSIM looks through a window of 11 pixels.
    alike = [ssim(x, y, value_range=_RANGE) for x, y in pairs] if system.size >= 11 else [np.full(1, np.nan)]
    seen = extract(features, (x for x, _ in pairs), name=f"{name}, reconstructed")
    reference = extract(features, (y for _, y in pairs), name=name)
    counts = of_codes.count_codes(codes[:, :tokens], system.vocab_size)
    return ImageEvaluation(
        images=len(pixels),
        tokens=tokens,
        squared_error=float(np.mean(squared, dtype=np.float64)),
        psnr=float(np.mean(decibels, dtype=np.float64)),
        ssim=float(np.mean(np.concatenate(alike), dtype=np.float64)),
        frechet=frechet_distance(seen, reference),
        kernel=kernel_distance(seen, reference),
        nominal_bits=tokens * system.bits / system.tokens,
        coded_bits=of_codes.adaptive_bits(counts) / len(pixels),
        codes_used=of_codes.usage(counts),
        perplexity=of_codes.perplexity(counts),
    )
