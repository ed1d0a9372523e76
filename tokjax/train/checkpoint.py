"""Checkpoints: orbax writes the arrays; a manifest of SHA-256 sums and one rename make each of them all or nothing.

workdir/checkpoints/00000100/metadata.json   config, tokenizer hash, data position, versions
                             params/ ema/ training/   arrays
                             manifest.json   size and SHA-256 of every other file
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tokjax import __version__
from tokjax.core.errors import CheckpointError, OutputError
from tokjax.core.types import Params
from tokjax.sharding import is_lost_peer, on_first
from tokjax.train.state import TrainState

FOLDER = "checkpoints"
_MANIFEST, _METADATA = "manifest.json", "metadata.json"
_TEMPORARY, _DAMAGED = "unfinished-", "damaged-"

# Fields that say how long, where and how chattily a run goes, not what it computes; a resume may change them.
RESUMABLE = frozenset(
    {
        "codes_of",  # which tokenizer is there is judged by the hash of its tables
        "mesh.data",
        "mesh.fsdp",
        "mesh.sequence",
        "mesh.tensor",
        "train.checkpoint_every",
        "train.eval_every",
        "train.keep_checkpoints",
        "train.log_every",
        "train.peer_timeout_s",
        "train.profile_steps",
        "train.steps",
        "train.tensorboard",
        "train.time_limit_s",
    }
)


def save(workdir: Path, state: TrainState, *, metadata: Mapping[str, Any], keep: int) -> None:
    """Writes the state of `state.step`, then removes all but the newest `keep` checkpoints.

    Args:
      workdir: directory of the run.
      state: what to save.
      metadata: JSON values to keep beside it; see `run_metadata`.
      keep: checkpoints that stay.

    Raises:
      OutputError: a full disk or a place that cannot be written; nothing half-written is left.
    """
    import orbax.checkpoint as ocp

    step = int(state.step)
    folder = (workdir / FOLDER).absolute()
    temporary = folder / f"{_TEMPORARY}{step:08d}"
    training = {"step": state.step, "opt_state": state.opt_state, "system_state": state.system_state}
    items = {"params": state.params, "training": training} | ({} if state.ema is None else {"ema": state.ema})

    def finish() -> None:
        _write_json(temporary / _METADATA, {"step": step, **metadata})
        _write_json(temporary / _MANIFEST, _manifest(temporary))
        os.rename(temporary, folder / f"{step:08d}")
        for old in _steps(workdir)[:-keep]:
            _discard(folder / f"{old:08d}")

    try:
        on_first(lambda: _check_space(folder, items))
        with _raised_not_logged(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            arguments = {name: ocp.args.PyTreeSave(tree) for name, tree in items.items()}
            checkpointer.save(temporary, args=ocp.args.Composite(**arguments))
        on_first(finish)
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as ValueError
        if is_lost_peer(error):  # which is no matter of this folder, and the first process may still be at work there
            raise
        if jax.process_index() == 0:
            _remove_unfinished(folder)
        raise OutputError(
            f"{folder}: cannot save the checkpoint of step {step} ({_first_line(error)}); free space or change workdir."
        ) from error


def open_for_training(workdir: Path) -> int | None:
    """Makes `workdir` ready to be written to, and finds where to resume.

    Leftovers of an interrupted save are removed; damaged checkpoints newer than the last good one are set aside under
    another name, with a warning.

    Returns:
      The step of the newest good checkpoint, or None for a run that has none yet.

    Raises:
      OutputError: the directory cannot be written.
      CheckpointError: there are checkpoints and all of them are damaged.
    """
    folder = workdir / FOLDER

    def open_folder() -> int | None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            step = latest(workdir) if _steps(workdir) else None
            _remove_unfinished(folder)
            for damaged in _steps(workdir):
                if step is not None and damaged > step:
                    os.rename(folder / f"{damaged:08d}", folder / f"{_DAMAGED}{damaged:08d}")
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error}); choose another workdir.") from error
        return step

    return on_first(open_folder)


def latest(workdir: Path) -> int:
    """Returns the step of the newest checkpoint whose every file has the size and SHA-256 sum it was saved with.

    A newer one that is damaged is passed over with a warning.

    Raises:
      CheckpointError: no checkpoint, or no good one.
    """
    steps = _steps(workdir)
    if not steps:
        raise CheckpointError(f"{workdir}: no checkpoint here; give the directory of a run that has saved one.")
    problems: list[str] = []
    for step in reversed(steps):
        problem = _damage(workdir / FOLDER / f"{step:08d}")
        if problem is None:
            if problems:
                warnings.warn(f"{'; '.join(problems)}; using step {step} instead.", stacklevel=2)
            return step
        problems.append(f"damaged checkpoint {workdir / FOLDER / f'{step:08d}'} ({problem})")
    raise CheckpointError(
        f"{'; '.join(problems)}; no good checkpoint is left. Restore a copy, or start in a new workdir."
    )


def read_metadata(workdir: Path, step: int) -> dict[str, Any]:
    """Returns what was saved beside the arrays of `step`."""
    return json.loads((workdir / FOLDER / f"{step:08d}" / _METADATA).read_text())


def run_metadata(config: Mapping[str, Any], tables_hash: str) -> dict[str, Any]:
    """Returns what identifies a run in its checkpoints: config, tokenizer hash and versions."""
    return {
        "config": json.loads(json.dumps(config)),
        "tables_hash": tables_hash,
        "versions": {
            "tokjax": __version__,
            "jax": jax.__version__,
            "orbax": version("orbax-checkpoint"),
            "python": platform.python_version(),
        },
    }


def check_same_run(saved: Mapping[str, Any], run: Mapping[str, Any], workdir: Path) -> None:
    """Raises unless a checkpoint with metadata `saved` may be continued by `run`.

    Raises:
      CheckpointError: another tokenizer, or a config that differs in more than `RESUMABLE`; lists the fields.
    """
    old, new = _flatten(saved["config"]), _flatten(run["config"])
    differing = [
        f"{name}: saved {old.get(name, 'nothing')!r}, now {new.get(name, 'nothing')!r}"
        for name in sorted((old.keys() | new.keys()) - RESUMABLE)
        if (name in old) != (name in new) or old[name] != new[name]
    ]
    if differing:
        raise CheckpointError(
            f"{workdir}: holds a run of another configuration ({'; '.join(differing)}). "
            "Choose another workdir, or set these fields back to resume it."
        )
    if saved["tables_hash"] != run["tables_hash"]:
        raise CheckpointError(
            f"{workdir}: was trained with another tokenizer (tables {saved['tables_hash']}, now {run['tables_hash']}). "
            "Choose another workdir, or use the tokenizer saved with the run."
        )


def restore(workdir: Path, step: int, target: TrainState) -> TrainState:
    """Reads the state of `step` onto the devices, wherever it was saved.

    Args:
      target: tree of `jax.ShapeDtypeStruct` with shardings.

    Raises:
      CheckpointError: its arrays are not those of `target`.
    """
    import orbax.checkpoint as ocp

    training = {"step": target.step, "opt_state": target.opt_state, "system_state": target.system_state}
    items = {"params": target.params, "training": training} | ({} if target.ema is None else {"ema": target.ema})
    path = (workdir / FOLDER / f"{step:08d}").absolute()
    arguments = {
        name: ocp.args.PyTreeRestore(item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree))
        for name, tree in items.items()
    }
    try:
        with _raised_not_logged(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(path, args=ocp.args.Composite(**arguments))
    except (ValueError, KeyError, FileNotFoundError) as error:
        if is_lost_peer(error):
            raise
        raise CheckpointError(
            f"{path}: its arrays are not those of this system ({_first_line(error)}); "
            "use the version of the code that saved it, or another workdir."
        ) from error
    return TrainState(params=restored["params"], ema=restored.get("ema"), **restored["training"])


def load_for_inference(workdir: str | os.PathLike[str]) -> tuple[Params, dict[str, Any], int]:
    """Reads the parameters of the newest good checkpoint, averaged where the run kept an average.

    Neither the optimizer nor the devices of the run need to be known.

    Returns:
      (parameters on the default device, config, step).

    Raises:
      CheckpointError: no checkpoint, or no good one.
    """
    workdir = Path(workdir).absolute()
    step = latest(workdir)
    path = workdir / FOLDER / f"{step:08d}"
    params = _read(path / ("ema" if (path / "ema").is_dir() else "params"))
    return params, read_metadata(workdir, step)["config"], step


def load_system_state(workdir: str | os.PathLike[str]) -> Params:
    """Reads what gradients did not train, codebook averages say, of the newest good checkpoint.

    Raises:
      CheckpointError: no checkpoint, or no good one.
    """
    workdir = Path(workdir).absolute()
    return _read(workdir / FOLDER / f"{latest(workdir):08d}" / "training", "system_state")


def _read(path: Path, part: str | None = None) -> Params:
    """Returns the arrays at `path`, or those of one part of them, on the default device."""
    import orbax.checkpoint as ocp
    from etils.epath import Path as EPath

    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(EPath(path)).tree
    if part is not None:
        tree = {part: tree.get(part, {})}
        if not jax.tree.leaves(tree):
            return {}
    host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    arguments = ocp.args.PyTreeRestore(item=tree, restore_args=host, partial_restore=part is not None)
    arrays = jax.tree.map(jax.numpy.asarray, handler.restore(EPath(path), args=arguments))
    return arrays if part is None else arrays[part]


def load_initial(run: str | os.PathLike[str], target: Params, tables_hash: str) -> Params:
    """Reads the parameters of another run, for one that starts from them, onto the devices of `target`.

    Args:
      run: directory of the other run; as of `load_for_inference`.
      target: tree of `jax.ShapeDtypeStruct` with shardings.
      tables_hash: identifies the tokenizer.

    Raises:
      CheckpointError: no good checkpoint, another tokenizer, or parameters that are not those of `target`, by name.
    """
    params, _, step = load_for_inference(run)
    trained_with = read_metadata(Path(run), step)["tables_hash"]
    if trained_with != tables_hash:
        raise CheckpointError(
            f"train.init_from: {run} was trained with another tokenizer (tables {trained_with}, here {tables_hash}). "
            f"Give its own as tokenizer.name={Path(run) / 'tokenizer'}."
        )
    found, wanted = _shapes(params), _shapes(target)
    differing = [
        f"{name}: {found.get(name, 'nothing')} there, {wanted.get(name, 'nothing')} here"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"train.init_from: {run} holds the parameters of another system ({'; '.join(differing[:4])}). "
            "Use the same system in both."
        )
    return jax.tree.map(lambda there, here: jax.device_put(there, here.sharding), params, target)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of every array of `tree`."""
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _steps(workdir: Path) -> list[int]:
    """Steps with a checkpoint that was finished, damaged or not, in order."""
    folder = workdir / FOLDER
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def _check_space(folder: Path, items: Mapping[str, Any]) -> None:
    """Raises OSError, before a byte is written, where the arrays of `items` cannot fit."""
    needed, free = sum(x.nbytes for x in jax.tree.leaves(items)), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"it needs {needed} bytes, {free} are free")


def _manifest(path: Path) -> dict[str, list[Any]]:
    """Returns file name -> [size, SHA-256] of every file under `path` but the manifest itself."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != _MANIFEST)
    return {p.relative_to(path).as_posix(): [p.stat().st_size, _sha256(p)] for p in files}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(path: Path) -> str | None:
    """Says what is wrong with the checkpoint at `path`, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_bytes())
        saved = {name: [int(size), str(digest)] for name, (size, digest) in manifest.items()}
    except FileNotFoundError:
        return f"{_MANIFEST} is missing"
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{_MANIFEST} cannot be read"
    found = _manifest(path)
    for name in sorted(saved.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if saved.get(name) != found[name]:
            return f"{name} is not what was saved"
    return None if _METADATA in saved else f"{_METADATA} is missing"


def _remove_unfinished(folder: Path) -> None:
    """Removes what an interrupted save left behind."""
    for _ in range(20):
        leftovers = list(folder.glob(f"{_TEMPORARY}*"))
        if not leftovers:
            return
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)
        time.sleep(0.2)  # threads of a save that failed may still be writing; look again


def _discard(path: Path) -> None:
    """Removes a checkpoint; an interruption leaves something that does not look like one."""
    doomed = path.with_name(f"{_TEMPORARY}{path.name}")
    os.rename(path, doomed)
    shutil.rmtree(doomed)


@contextlib.contextmanager
def _raised_not_logged() -> Iterator[None]:
    """Keeps orbax from also logging, with a traceback per thread, the error that it raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_json(path: Path, value: Any) -> None:
    with open(path, "w") as file:
        json.dump(value, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
