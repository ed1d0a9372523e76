"""A checkpoint is whole or it is not used; another run's is refused; a place that cannot be written is named."""

import os
import shutil
from pathlib import Path

import chex
import jax
import mounts
import pytest
from tiny_system import CONFIG, Tiny, train

from tokjax.core.errors import CheckpointError, OutputError
from tokjax.train import OptimizerSpec, checkpoint, load_for_inference

OPTIMIZER = OptimizerSpec(ema_decay=0.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run with checkpoints of steps 4 and 6, and its last state."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(workdir, optimizer=OPTIMIZER, keep_checkpoints=2)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it to damage."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {"flip": flip, "truncate": truncate, "empty": lambda p: p.write_bytes(b""), "delete": lambda p: p.unlink()}


def test_only_the_newest_are_kept(trained):
    assert sorted(p.name for p in (trained[0] / "checkpoints").iterdir()) == ["00000004", "00000006"]


@pytest.mark.parametrize("how", DAMAGE)
def test_damage_to_any_file_of_the_newest_falls_back_to_the_one_before(trained, tmp_path, how):
    newest = Path("checkpoints") / "00000006"
    for number, file in enumerate(files(trained[0] / newest)):
        if how in ("truncate", "flip") and file.stat().st_size == 0:
            continue
        workdir = shutil.copytree(trained[0], tmp_path / str(number))
        DAMAGE[how](workdir / file.relative_to(trained[0]))
        with pytest.warns(UserWarning, match="damaged checkpoint .*00000006"):
            assert checkpoint.latest(workdir) == 4, file


def test_a_run_whose_newest_checkpoint_is_damaged_ends_in_the_same_bits(trained, run):
    flip(max(files(run / "checkpoints" / "00000006" / "params"), key=lambda p: p.stat().st_size))
    with pytest.warns(UserWarning, match="damaged"):
        resumed = train(run, optimizer=OPTIMIZER)
    chex.assert_trees_all_equal(resumed, trained[1])
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"00000004", "00000006", "damaged-00000006"}
    assert checkpoint.latest(run) == 6


def test_no_good_checkpoint_is_an_error_and_nothing_is_touched(run):
    for step in ("00000004", "00000006"):
        truncate(run / "checkpoints" / step / "metadata.json")
    before = {p: p.read_bytes() for p in files(run)}
    for use in (lambda: train(run, optimizer=OPTIMIZER), lambda: load_for_inference(run)):
        with pytest.raises(CheckpointError, match=r"00000006.*metadata.json.*00000004.*no good checkpoint"):
            use()
    assert {p: p.read_bytes() for p in files(run)} == before


class Crash(BaseException):
    """Ends the process as kill -9 does: nothing catches it."""


@pytest.mark.parametrize("after", range(6))
def test_a_crash_at_any_point_of_a_save_loses_no_saved_step(trained, tmp_path, monkeypatch, after):
    """Sealing, renaming and removing are what a crash can come between, in orbax and around it."""
    operations = iter(range(100))

    def crashing(function):
        def wrapped(*args, **kwargs):
            if any((tmp_path / "checkpoints").glob("0*")) and next(operations) == after:
                raise Crash
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_json", crashing(checkpoint._write_json))
        patch.setattr(checkpoint.os, "rename", crashing(os.rename))
        patch.setattr(checkpoint.shutil, "rmtree", crashing(shutil.rmtree))
        with pytest.raises(Crash):
            train(tmp_path, optimizer=OPTIMIZER, keep_checkpoints=1)
    assert checkpoint.latest(tmp_path) >= 2
    chex.assert_trees_all_equal(train(tmp_path, optimizer=OPTIMIZER, keep_checkpoints=1), trained[1])
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000006"]


def test_another_configuration_is_refused_and_its_fields_are_listed(run):
    config = {"system": {"name": "other", "width": 3}, "train": {"steps": 9}}
    with pytest.raises(CheckpointError, match=r"system.name: saved 'tiny', now 'other'; system.width: saved 'nothing'"):
        train(run, optimizer=OPTIMIZER, config=config)


def test_fields_of_cadence_and_topology_may_change(trained, run):
    config = {"system": {"name": "tiny"}, "train": {"steps": 6, "log_every": 5}, "mesh": {"data": 1}}
    chex.assert_trees_all_equal(train(run, optimizer=OPTIMIZER, config=config), trained[1])


def test_another_tokenizer_is_refused(run):
    with pytest.raises(CheckpointError, match="tokenizer"):
        train(run, optimizer=OPTIMIZER, tables_hash="feed")


def test_other_arrays_are_refused(run):
    with pytest.raises(CheckpointError, match="arrays"):
        train(run, optimizer=OPTIMIZER, system=Tiny(hidden=32))
    with pytest.raises(CheckpointError, match="arrays"):
        train(run, optimizer=OptimizerSpec(ema_decay=0.5, clip_norm=None, accumulate_steps=1), system=Tiny(hidden=4))


def test_inference_reads_the_average_without_knowing_the_optimizer(trained):
    params, config, step = load_for_inference(trained[0])
    chex.assert_trees_all_equal(params, jax.device_get(trained[1].ema))
    assert (config, step) == (CONFIG, 6)


def test_inference_reads_the_parameters_where_there_is_no_average(tmp_path):
    state = train(tmp_path, steps=2, optimizer=OptimizerSpec())
    chex.assert_trees_all_equal(load_for_inference(tmp_path)[0], jax.device_get(state.params))


def test_metadata_tells_what_made_the_checkpoint(trained):
    metadata = checkpoint.read_metadata(trained[0], 6)
    assert metadata["config"] == CONFIG and metadata["step"] == metadata["data_position"] == 6
    assert {"tokjax", "jax", "orbax", "python"} <= metadata["versions"].keys()


@pytest.mark.parametrize(
    "prepare", [lambda p: None, lambda p: p.mkdir(), lambda p: (p / "checkpoints").mkdir(parents=True)]
)
def test_a_place_without_checkpoints_is_named(tmp_path, prepare):
    prepare(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="nothing: no checkpoint"):
        load_for_inference(tmp_path / "nothing")


def test_a_workdir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("a file, not a directory")
    with pytest.raises(OutputError, match="file"):
        train(tmp_path / "file")


# Threads of the save that failed outlive the event loop of orbax that started them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_named_and_leaves_the_last_checkpoint_whole(tmp_path):
    with mounts.tmpfs(tmp_path / "disk", "size=1m") as disk:
        train(disk / "run", steps=2, optimizer=OPTIMIZER)
        for left in (0, 3):  # pages: too few for the arrays, which is known before; too few for the files around them
            (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - (left + 3) * 4096))
            with pytest.raises(OutputError, match=str(disk)):
                train(disk / "run", steps=4, optimizer=OPTIMIZER)
            assert {p.name for p in (disk / "run" / "checkpoints").iterdir()} == {"00000002"}
            os.remove(disk / "filler")
        assert int(train(disk / "run", steps=4, optimizer=OPTIMIZER).step) == 4


def test_a_read_only_place_is_named(tmp_path):
    with mounts.tmpfs(tmp_path / "disk", "ro") as disk, pytest.raises(OutputError, match=str(disk)):
        train(disk / "run")
