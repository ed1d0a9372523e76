"""What studies of image tokenizers measure of generators of their codes: distances by steps of sampling, and time.

Every tokenizer's codes are learned by the same `maskgit`, but for the number of codes, at one learning rate. The
temperature is chosen for each generator and number of steps, on validation images.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokjax.core.files import read_json, write_text
from tokjax.data.images import Images
from tokjax.experiment.compare import Interrupted
from tokjax.experiment.image_generator import ImageGenerator, load_image_generator, train_image_generator

_ROUNDS = 5  # of timing, each of all generators in turn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """How generators are trained and drawn from.

    Attributes:
      images: what the tokenizers were trained on; as many as there are for testing are drawn.
      directory: of the study, whose folders `LABEL/SEED` hold the runs of tokenizers.
      body: of the transformer.
      steps: of training.
      batch_size: images of a batch, of training and of drawing.
      sampling_steps: in how many steps codes are drawn, more than 1; those above the number of codes are left out.
      temperatures: of which the one is taken that is best on validation images.
      rate: of learning.
      progress: show progress bars.
    """

    images: Images
    directory: Path
    body: Mapping[str, int]
    steps: int
    batch_size: int
    sampling_steps: tuple[int, ...]
    temperatures: tuple[float, ...]
    rate: float = 1e-3
    progress: bool = True

    def _place(self, label: str, seed: int) -> Path:
        return self.directory / f"{label}_generator" / str(seed)

    def _train(self, label: str, seed: int) -> ImageGenerator:
        config = {
            "codes_of": str(self.directory / label / str(seed)),
            "system": {"name": "maskgit", "body": dict(self.body)},
            "data": {"batch_size": self.batch_size},
            "optimizer": {"learning_rate": self.rate, "warmup_steps": max(1, self.steps // 20)},
            "train": {
                "steps": self.steps, "eval_every": self.steps, "checkpoint_every": self.steps, "seed": seed,
            },
        }  # fmt: skip
        place = self._place(label, seed)
        model, interrupted = train_image_generator(config, place, source=self.images, progress=self.progress)
        if interrupted:
            raise Interrupted(place)
        return model

    def _steps_of(self, model: ImageGenerator) -> list[int]:
        return [steps for steps in self.sampling_steps if steps <= model.tokenizer.system.tokens]

    def rows(self, label: str, seeds: int) -> Iterator[dict[str, Any]]:
        """Yields a row for each seed and number of sampling steps; what is measured is kept in a file each seed.

        Raises:
          Interrupted: by a signal.
        """
        for seed in range(seeds):
            done = self._place(label, seed).with_suffix(".json")
            if not done.exists():
                write_text(done, json.dumps({"rows": self._measure(self._train(label, seed), seed)}))
            for row in read_json(done, needs=("rows",))["rows"]:
                yield {"seed": seed, **row}

    def _measure(self, model: ImageGenerator, seed: int) -> list[dict[str, Any]]:
        valid, test = self.images.split("valid"), self.images.split("test")
        flops = model.system.flops(1, model.tokenizer.system.tokens)  # type: ignore[attr-defined]
        rows = []
        for steps in self._steps_of(model):
            ways = [model.sampling({"steps": steps, "temperature": value}) for value in self.temperatures]
            distances = [model.evaluate(valid, sampling=way, seed=seed).frechet.value for way in ways]
            best = int(np.argmin(distances))
            found = model.evaluate(test, sampling=ways[best], seed=seed)
            rows.append(
                {
                    "steps": steps,
                    "temperature": self.temperatures[best],
                    "valid_frechet": distances[best],
                    "frechet": found.frechet.value,
                    "kernel": found.kernel.value,
                    "features": found.frechet.extractor,
                    "mflops": steps * flops / 1e6,
                }
            )
        return rows

    def seconds(self, labels: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields how long an image takes, decoding included, of the first seed's generators in turn, round by round.

        Yields:
          (label, row).
        """
        models = {label: load_image_generator(self._place(label, 0)) for label in labels}
        every = [(label, steps) for label in labels for steps in self._steps_of(models[label])]
        classes = np.full(self.batch_size, -1)

        def draw(label: str, steps: int) -> float:
            start = time.perf_counter()
            models[label].images(classes, sampling=models[label].sampling({"steps": steps}))
            return (time.perf_counter() - start) / self.batch_size

        for label, steps in every:
            draw(label, steps)  # compiles
        for number in range(_ROUNDS):
            for label, steps in every:
                yield label, {"steps": steps, "round": number, "milliseconds": 1e3 * draw(label, steps)}
