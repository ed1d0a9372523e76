"""How far generated images are from real ones.

Letters: `S` size of an image, `C` channels.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from tokjax.measure.distances import Distance, frechet_distance, kernel_distance
from tokjax.measure.features import Features, extract


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationEvaluation:
    """Generated images against real ones.

    Attributes:
      images: how many were generated.
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
    generated: Iterable[np.ndarray], real: Iterable[np.ndarray], *, name: str, features: Features
) -> GenerationEvaluation:
    """Measures `generated` against `real`, batches of images float32 [n, S, S, C] from -1 to 1.

    Args:
      generated: the images.
      real: images of the same classes, where they have any.
      name: of the real images.
      features: what looks at them.

    Raises:
      SourceError: fewer than two images of either.
    """
    drawn = extract(features, generated, name=f"{name}, generated")
    reference = extract(features, real, name=name)
    return GenerationEvaluation(
        images=int(drawn.moments.count),
        frechet=frechet_distance(drawn, reference),
        kernel=kernel_distance(drawn, reference),
    )
