"""What every comparison shares: budgets in steps, learning rates by one rule, runs that are made once and go on.

A comparison owns a directory: `compare.json` (its settings), `sweep/` and `runs/` (a directory each), `results.json`.
"""

import abc
import dataclasses
import functools
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from tokjax.core.errors import CheckpointError, NumericsError, SpecError
from tokjax.core.files import read_json, write_text
from tokjax.experiment.budget import Budget
from tokjax.experiment.contenders import folder
from tokjax.experiment.rates import SWEEP_FRACTION, best_rate, sweep_rates
from tokjax.experiment.run import Interrupted
from tokjax.measure.cost import peak_memory_bytes, reset_peak_memory
from tokjax.train import checkpoint, read_evaluations, read_metrics

CURVE_POINTS = 6  # evaluations of a full run, for the curve against FLOPs
MIN_STEPS = 4  # of the shortest run
_TIMED_STEPS = 8

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Entrant(abc.ABC):
    """A contender with everything that does not depend on seed or learning rate.

    Attributes:
      name: as on the command line.
      config: of its runs, but for what `train_once` sets.
      metric: what its evaluations call the number that learning rates are chosen by; lower is better.
      metric_in_words: for messages.
      least_data: fields of `data` that keep an evaluation short.
    """

    name: str
    config: dict[str, Any]
    metric: ClassVar[str]
    metric_in_words: ClassVar[str]
    least_data: ClassVar[dict[str, Any]]

    @abc.abstractmethod
    def train(self, config: dict[str, Any], where: Path, *, progress: bool) -> tuple[Any, str | None]:
        """Trains `config` in `where`, or goes on there; returns the model, and the signal that stopped it or None."""

    @abc.abstractmethod
    def flops_per_step(self) -> float:
        """FLOPs of a training step, forward and backward."""

    @abc.abstractmethod
    def data_per_step(self) -> float:
        """What a training step reads, in the unit of budgets that count data."""

    def prepare(self, where: Path) -> None:
        """Puts into `where` what a run needs there beside its configuration."""
        del where

    @functools.cached_property
    def seconds_per_step(self) -> float:
        """Time of a training step on this machine, compilation not counted: measured, by training for a few.

        Raises:
          Interrupted: by a signal, before it was known.
        """
        short = json.loads(json.dumps(self.config))
        short["train"] |= {"steps": _TIMED_STEPS, "eval_every": _TIMED_STEPS, "time_limit_s": None}
        short["optimizer"]["warmup_steps"] = 1
        short["data"] |= self.least_data
        with tempfile.TemporaryDirectory() as directory:
            self.prepare(Path(directory))
            _, interrupted = self.train(short, Path(directory), progress=False)
            if interrupted:
                raise Interrupted(directory)
            return read_metrics(directory)[-1]["seconds"] / _TIMED_STEPS


def claim(directory: Path, settings: Mapping[str, Any]) -> None:
    """Makes `directory` the own of the comparison of these `settings`, or checks that it already is.

    Raises:
      CheckpointError: it holds a comparison with other settings.
    """
    settings = json.loads(json.dumps(dict(settings)))
    path = directory / "compare.json"
    if path.exists():
        before = read_json(path)
        # More systems or seeds go on from what is there; what shapes a run must be the same once there is one.
        fixed = settings.keys() - {"systems", "seeds"} if (directory / "sweep").exists() else {"source"}
        changed = [k for k in settings if k in fixed and settings[k] != before.get(k)]
        if changed:
            was = ", ".join(f"{k}={before.get(k)!r}" for k in changed)
            raise CheckpointError(f"--out {directory} holds a comparison with {was}. Choose another directory.")
    write_text(path, json.dumps(settings, indent=1))


def run_directory(directory: Path, system: str, rate: float, seed: int) -> Path:
    """Returns where the comparison in `directory` keeps the run of a contender at a learning rate and seed."""
    return directory / "runs" / folder(system) / f"{rate:.2e}-seed{seed}"


def choose_rate(
    entrant: Entrant, budget: Budget, directory: Path, *, progress: bool, say: Say
) -> tuple[float, list[dict[str, Any]]]:
    """Returns the best learning rate by `LEARNING_RATE_RULE`, and what was tried.

    Raises:
      Interrupted: by a signal; the current run is saved.
      NumericsError: training diverged at every rate.
    """
    base = entrant.config["optimizer"]["learning_rate"]
    share = budget.share(SWEEP_FRACTION)

    def attempt(rate: float) -> float:
        where = directory / "sweep" / folder(entrant.name) / f"{rate:.2e}"
        try:
            result = train_once(entrant, where, share, rate, 0, evaluations=1, progress=progress)
        except NumericsError:  # a rerun need not find it again
            result = dict.fromkeys(_trained(entrant))
            write_text(where / "trained.json", json.dumps(result))
        value = result[f"valid_{entrant.metric}"]
        cost = math.inf if value is None else value
        say(f"{entrant.name} learning rate {rate:.2e}: {cost:.4g} {entrant.metric_in_words} on validation")
        return cost

    tried = sweep_rates(entrant.name, base, attempt)
    best = best_rate(tried)
    listed = [
        {
            "system": entrant.name,
            "learning_rate": rate,
            entrant.metric: cost if math.isfinite(cost) else None,
            "best_at_an_end": best in (tried[0][0], tried[-1][0]),
        }
        for rate, cost in tried
    ]
    return best, listed


def _trained(entrant: Entrant) -> tuple[str, ...]:
    """What trained.json holds."""
    return f"valid_{entrant.metric}", "curve", "seconds", "peak_memory_bytes"


def train_once(
    entrant: Entrant, where: Path, budget: Budget, rate: float, seed: int, *, evaluations: int, progress: bool
) -> dict[str, Any]:
    """Trains in `where` on all of `budget`, unless that is done.

    Returns:
      `valid_METRIC` after the last step, `curve` of (step, metric) on the validation split, `seconds` and
      `peak_memory_bytes`.

    Raises:
      Interrupted: by a signal; the run is saved and goes on when called again.
      NumericsError: training diverged.
      SpecError: the budget buys too few steps.
    """
    done, names = where / "trained.json", _trained(entrant)
    if done.exists():
        return read_json(done, needs=names)
    config = json.loads(json.dumps(entrant.config))
    planned = where / "config.json"
    if planned.exists():
        config = read_json(planned, needs=config)
    else:
        config["optimizer"]["learning_rate"] = rate
        config["train"]["seed"] = seed
        _plan_steps(entrant, config, budget, evaluations)
        entrant.prepare(where)
        write_text(planned, json.dumps(config, indent=1))
    reset_peak_memory()
    model, interrupted = entrant.train(config, where, progress=progress)
    if interrupted:
        raise Interrupted(where)
    evaluations_made = read_evaluations(where)
    if not evaluations_made:
        raise CheckpointError(f"{where}: its logs are damaged. Delete this directory and give the command again.")
    curve = [(line["step"], line[entrant.metric]) for line in evaluations_made]
    seconds = checkpoint.read_metadata(where, model.step)["seconds"]
    result = dict(zip(names, (curve[-1][1], curve, seconds, peak_memory_bytes()), strict=True))
    write_text(done, json.dumps(result))
    return result


def affordable_steps(entrant: Entrant, budget: Budget) -> int:
    """Returns the steps that spend `budget`.

    Raises:
      SpecError: fewer than `MIN_STEPS`.
    """
    if budget.kind == "flops":
        cost = entrant.flops_per_step()
    elif budget.kind == "seconds":
        cost = entrant.seconds_per_step
    else:
        cost = entrant.data_per_step()
    steps = budget.amount / cost
    if steps < MIN_STEPS:
        raise SpecError(
            f"--budget: {entrant.name} makes {steps:.1f} steps; give at least "
            f"{_round_up(cost * MIN_STEPS / SWEEP_FRACTION):.2g} {budget.kind}, or a smaller --scale."
        )
    return round(steps)


def _round_up(value: float) -> float:
    """Returns the next number of two significant digits, so that what a message asks for is enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _plan_steps(entrant: Entrant, config: dict[str, Any], budget: Budget, evaluations: int) -> None:
    """Sets the steps that spend `budget`, and the cadence of `evaluations` and checkpoints with them."""
    steps = affordable_steps(entrant, budget)
    config["train"]["steps"] = steps
    config["train"]["eval_every"] = math.ceil(steps / evaluations)
    config["train"]["checkpoint_every"] = math.ceil(steps / 2)
    config["train"]["log_every"] = max(1, steps // 50)
    config["optimizer"]["warmup_steps"] = max(1, steps // 20)
    if budget.kind == "seconds":
        config["train"]["time_limit_s"] = budget.amount
