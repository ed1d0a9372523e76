"""What studies of image tokenizers share: a learning rate chosen, runs of every seed, and numbers kept as they come."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokjax.core.files import read_json, write_text
from tokjax.data.images import Images
from tokjax.experiment.compare import Interrupted
from tokjax.experiment.images import ImageModel, train_image_tokenizer
from tokjax.experiment.rates import SWEEP_FRACTION, best_rate, sweep_rates
from tokjax.train import read_evaluations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the models of a study are trained.

    Attributes:
      images: what they see.
      steps: of each run.
      batch_size: images of a batch.
      directory: of the study.
      rate: what the choice of a learning rate begins at.
      sweep: whether it is chosen at all.
      target: of the evaluation, what the best rate has least of.
      proxy: seed -> run of the tokenizer whose codes are learned in the first half of the steps, before the second
        half against pixels; None for a single stage.
      progress: show progress bars.
    """

    images: Images
    steps: int
    batch_size: int
    directory: Path
    rate: float = 1e-3
    sweep: bool = True
    target: str = "squared_error"
    proxy: Callable[[int], Path] | None = None
    progress: bool = True

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.images[0].pixels.shape[-1]

    def best_rate(self, name: str, system: Mapping[str, Any]) -> float:
        """Returns the learning rate of `system`, by the rule of all comparisons."""
        if not self.sweep:
            return self.rate

        def attempt(rate: float) -> float:
            where = self.directory / name / f"{rate:.2e}"
            self.train(system, where, rate=rate, seed=0, steps=round(SWEEP_FRACTION * self.steps))
            return read_evaluations(where)[-1][self.target]

        return best_rate(sweep_rates(name, self.rate, attempt))

    def rows(
        self, name: str, system: Mapping[str, Any], rate: float, seeds: int, measure: Callable[[ImageModel], list[dict]]
    ) -> Iterator[dict[str, Any]]:
        """Yields what `measure` says of the model of every seed, which is kept in a file each."""
        for seed in range(seeds):
            where = self.directory / name / str(seed)
            done = where.with_suffix(".json")
            if not done.exists():
                model = self.train(system, where, rate=rate, seed=seed, steps=self.steps)
                write_text(done, json.dumps({"rows": measure(model)}))
            for row in read_json(done, needs=("rows",))["rows"]:
                yield {"seed": seed, "learning_rate": rate, **row}

    def train(self, system: Mapping[str, Any], workdir: Path, *, rate: float, seed: int, steps: int) -> ImageModel:
        """Trains `system` for so many steps, or goes on.

        Raises:
          Interrupted: by a signal.
        """
        if self.proxy is None:
            return self._run(dict(system), workdir, rate, seed, steps)
        first = workdir / "proxy_stage"
        self._run({**system, "stage": "proxy"}, first, rate, seed, steps // 2, proxy=str(self.proxy(seed)))
        return self._run(
            {**system, "stage": "pixels"}, workdir, rate, seed, steps - steps // 2, train={"init_from": str(first)}
        )

    def _run(
        self,
        system: dict[str, Any],
        workdir: Path,
        rate: float,
        seed: int,
        steps: int,
        train: Mapping[str, Any] = MappingProxyType({}),
        **fields: Any,
    ) -> ImageModel:
        config = {
            "source": self.images.name,
            "system": system,
            "data": {"batch_size": self.batch_size},
            "optimizer": {"learning_rate": rate, "warmup_steps": max(1, steps // 20)},
            "train": {"steps": steps, "eval_every": steps, "checkpoint_every": steps, "seed": seed, **train},
            **fields,
        }
        model, interrupted = train_image_tokenizer(config, workdir, source=self.images, progress=self.progress)
        if interrupted:
            raise Interrupted(workdir)
        return model
