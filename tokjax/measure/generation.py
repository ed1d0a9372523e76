"""How far generated images are from real ones.

Letters: `N` images, `S` size of an image, `C` channels.
"""

import dataclasses

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.measure.distances import Distance, frechet_distance, kernel_distance
from tokjax.measure.features import Features, extract, random_pyramid


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationEvaluation:
    """Generated images against as many real ones.

    Attributes:
      images: N of each.
      frechet, kernel: distances of the generated images from the real ones.
    """

    images: int
    frechet: Distance
    kernel: Distance

    def summary(self) -> dict[str, int | float | str]:
        """Returns what a list of results shows, distances by their labels and with what they depend on."""
        named = {found.label: found.value for found in (self.frechet, self.kernel)}
        return {"images": self.images} | named | {"features": f"{self.frechet.extractor} {self.frechet.fingerprint}"}


def evaluate_generated(
    generated: np.ndarray, real: np.ndarray, *, name: str, batch_size: int, features: Features | None = None
) -> GenerationEvaluation:
    """Measures `generated` against `real`, each float32 [N, S, S, C] from -1 to 1.

    Args:
      generated: the images.
      real: as many, of the same classes where they have any.
      name: of the real images.
      batch_size: images that are looked at at once.
      features: what looks at them; random filters by default.

    Raises:
      SourceError: the two are not of one shape, or fewer than two images.
    """
    if generated.shape != real.shape or len(real) < 2:
        raise SourceError(f"{name}: {generated.shape} generated, {real.shape} real; give two or more of one shape.")
    features = random_pyramid(real.shape[-1]) if features is None else features

    def seen(images: np.ndarray, title: str):
        parts = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return extract(features, parts, name=title)

    drawn, reference = seen(generated, f"{name}, generated"), seen(real, name)
    return GenerationEvaluation(
        images=len(real), frechet=frechet_distance(drawn, reference), kernel=kernel_distance(drawn, reference)
    )
