"""The one training loop: mesh, sharded state, restore, steps, evaluation, checkpoints."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from tokjax.core.spec import check
from tokjax.core.types import Params, System
from tokjax.sharding import MeshSpec, make_mesh, on_first, put_batch, replicated, share_of_process, use_mesh
from tokjax.train import checkpoint, compile_cache, heartbeat
from tokjax.train.host import StopSignals, agree, prefetch, stop_signals
from tokjax.train.metrics import Recorder, is_evaluated, recording
from tokjax.train.optimizer import OptimizerSpec, learning_rates
from tokjax.train.profiling import profiler
from tokjax.train.speed import Feed, Speed, Stopwatch, mesh_peak_flops
from tokjax.train.state import TrainState
from tokjax.train.step import parts
from tokjax.train.watchdog import watchdog

Evaluate = Callable[[TrainState], Mapping[str, float | str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """How long a run goes and what it leaves behind.

    Attributes:
      steps: updates to make in all, over every resume.
      log_every: steps between metrics lines; the last step is always logged.
      eval_every: steps between evaluations; the last step is always evaluated.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      keep_checkpoints: newest checkpoints that stay.
      seed: of the initial parameters and of every random choice of the system.
      profile_steps: (first, last) step to trace into `workdir/profile`, or None; SIGUSR1 traces the next ones.
      tensorboard: also write `workdir/tensorboard`.
      time_limit_s: end after so many seconds of stepping, over every resume; compilation, evaluation and saving do not
        count. None for no limit.
      peer_timeout_s: of several processes, one that gets no further for so many seconds ends, and says who is behind:
        longer than a compilation, an evaluation or a save takes.
      init_from: directory of a run of the same system and tokenizer whose parameters this one starts from, or None.
    """

    steps: int
    log_every: int = 10
    eval_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    seed: int = 0
    profile_steps: tuple[int, int] | None = None
    tensorboard: bool = False
    time_limit_s: float | None = None
    peer_timeout_s: float = 1800.0
    init_from: str | None = None

    def __post_init__(self):
        for name in ("steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints"):
            check(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "give 1 or more.")
        check(0 <= self.seed < 2**32, "train.seed", self.seed, "give a whole number of 32 bits.")
        if self.profile_steps is not None:
            in_order = len(self.profile_steps) == 2 and 1 <= self.profile_steps[0] <= self.profile_steps[1]
            check(in_order, "train.profile_steps", self.profile_steps, "give (first, last) with 1 <= first <= last.")
        fix = "give a positive number of seconds."
        check(self.peer_timeout_s > 0, "train.peer_timeout_s", self.peer_timeout_s, fix)
        if self.time_limit_s is not None:
            check(self.time_limit_s > 0, "train.time_limit_s", self.time_limit_s, "give a positive number, or None.")


def fit(
    system: System,
    batch: Callable[[int], Any],
    spec: TrainSpec,
    optimizer: OptimizerSpec,
    *,
    workdir: str | os.PathLike[str],
    config: Mapping[str, Any],
    tables_hash: str = "",
    mesh: Mesh | None = None,
    evaluate: Evaluate | None = None,
    adopt: Callable[[Params], Params] | None = None,
    flops: float | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains `system` from the newest good checkpoint in `workdir`, or from the start; the result is the same bits.

    The first SIGTERM or SIGINT lets the current step finish, saves, and returns with `stopped` set.

    Args:
      system: what to train.
      batch: (step) -> pytree of host arrays [B, ...] for the update from `step` to `step + 1`; pure, because it is
        called again after a resume, and on another thread.
      spec: see `TrainSpec`.
      optimizer: see `OptimizerSpec`.
      workdir: directory of the run, made if absent; gets run.json, metrics.jsonl, evaluations.jsonl, processes/
        and checkpoints/.
      config: JSON values that describe the run; a resume with another one is an error, but for `checkpoint.RESUMABLE`.
      tables_hash: identifies the tokenizer; a resume with another one is an error.
      mesh: the devices; all of them, splitting the batch, by default.
      evaluate: state -> numbers, and in 'split' the name of the data when it is not 'valid'; it should use the state's
        `inference_params`, the averaged parameters where there are any.
      adopt: parameters a run begins with -> those parameters with arrays of another run in place of some; not asked
        again after a resume.
      flops: FLOPs of forward and backward pass over one batch of all processes, as of `train_flops_per_step`, which
        'mfu' is a share of; None if unknown.
      progress: show a progress bar.

    Returns:
      The state after the last step made.

    Raises:
      SpecError: an impossible spec, or arrays that do not fit the mesh.
      CheckpointError: `workdir` holds another run, or only damaged checkpoints; `init_from` holds no run that fits.
      OutputError: `workdir` cannot be written.
      NumericsError: a loss, gradient or update is not finite.

    Where another process of the run hangs, the program ends with a message; see `watchdog`.
    """
    workdir = Path(workdir)
    mesh = make_mesh(MeshSpec()) if mesh is None else mesh
    rates = learning_rates(optimizer, spec.steps)
    metadata = checkpoint.run_metadata(config, tables_hash)

    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(stop_signals())
        stack.enter_context(use_mesh(mesh))
        got_on = stack.enter_context(watchdog(workdir, spec.peer_timeout_s))
        key = jax.device_put(jax.random.key(spec.seed), replicated(mesh))
        programs = compile_cache.programs(system, optimizer, mesh)
        state, done, seconds = _restore_or_init(workdir, programs, key, metadata, spec.init_from, adopt)
        saved, evaluated = done, done == 0 or on_first(lambda: is_evaluated(workdir, done))

        watch, feed = Stopwatch(seconds), Feed()
        speed = Speed(watch, feed, start=done, parts=share_of_process(mesh)[1], flops=flops, peak=mesh_peak_flops(mesh))
        recorder = stack.enter_context(
            recording(workdir, speed, parts(system.declare()), spec, metadata, start=done, progress=progress)
        )
        trace = stack.enter_context(profiler(workdir / "profile", spec.profile_steps))
        batches = stack.enter_context(prefetch(batch, done, spec.steps, feed=feed))
        run = _Run(workdir, spec, metadata, evaluate, signals, watch, recorder, got_on)

        if not evaluated and run.due(spec.eval_every, done):  # the last run ended between saving and evaluating
            run.evaluation(state, done)
        if done < spec.steps:
            step = programs.compile_step(put_batch(batch(done), mesh), key)
        watch.start()
        stopped = None
        while done < spec.steps and not (stopped := run.why_stop(done)):
            trace(done + 1, state)
            state, metrics = step(state, put_batch(next(batches), mesh), key, rates[done])
            done, evaluated = done + 1, False
            recorder.push(done, metrics)
            got_on()
            if run.due(spec.checkpoint_every, done):
                run.save(state, done)
                saved = done
            if run.due(spec.eval_every, done):
                run.evaluation(state, done)
                evaluated = True
        if saved != done:
            run.save(state, done)
        if stopped == "time_limit" and not evaluated:
            run.evaluation(state, done)
    return dataclasses.replace(state, stopped=stopped)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same between the steps of one call of `fit`."""

    workdir: Path
    spec: TrainSpec
    metadata: dict[str, Any]
    evaluate: Evaluate | None
    signals: StopSignals
    watch: Stopwatch
    recorder: Recorder
    got_on: Callable[[], None]

    def due(self, every: int, done: int) -> bool:
        return done % every == 0 or done == self.spec.steps

    def why_stop(self, done: int) -> str | None:
        late = self.spec.time_limit_s is not None and self.watch.seconds >= self.spec.time_limit_s
        return agree(self.signals.reason or ("time_limit" if late else None), done, self.spec.log_every)

    def save(self, state: TrainState, done: int) -> None:
        """Saves, after the metrics of the last step have shown that it is sound."""
        self.recorder.flush()
        with self.watch.paused():
            metadata = self.metadata | {"data_position": done, "seconds": self.watch.seconds}
            checkpoint.save(self.workdir, state, metadata=metadata, keep=self.spec.keep_checkpoints)
        self.got_on()

    def evaluation(self, state: TrainState, done: int) -> None:
        self.recorder.flush()
        if self.evaluate is None:
            return
        with self.watch.paused():
            values = self.evaluate(state)
        numbers = {name: float(value) for name, value in values.items() if name != "split"}
        self.recorder.evaluation({"step": done, "split": values.get("split", "valid"), **numbers})
        self.got_on()


def _restore_or_init(
    workdir: Path,
    programs: compile_cache.Programs,
    key: jax.Array,
    metadata: Mapping[str, Any],
    init_from: str | None,
    adopt: Callable[[Params], Params] | None,
) -> tuple[TrainState, int, float]:
    """Returns the state to go on from, its step, and the seconds already spent; every array is born on its devices."""
    start = checkpoint.open_for_training(workdir)
    heartbeat.write(workdir, step=start or 0)  # reading what was saved may take long
    if start is None:
        state = programs.init(key)
        if init_from is not None:
            params = checkpoint.load_initial(init_from, programs.state.params, metadata["tables_hash"])
            state = dataclasses.replace(state, params=params)
        if adopt is not None:
            shardings = jax.tree.map(lambda array: array.sharding, state.params)
            state = dataclasses.replace(state, params=jax.device_put(adopt(state.params), shardings))
        return state, 0, 0.0
    saved = checkpoint.read_metadata(workdir, start)
    checkpoint.check_same_run(saved, metadata, workdir)
    return checkpoint.restore(workdir, start, programs.state), start, saved["seconds"]
