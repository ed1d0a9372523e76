"""A run may start from another run's parameters: those bits, only where they fit, and it resumes like any other."""

import chex
import jax
import pytest
from tiny_system import Tiny, train

from tokjax.core.errors import CheckpointError
from tokjax.train import OptimizerSpec, load_for_inference

STILL = OptimizerSpec(learning_rate=1e-30, schedule="constant")  # too small to move a parameter


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("source")
    train(workdir, tables_hash="a")  # keeps an average
    return workdir


def test_it_starts_from_the_parameters_that_the_other_run_would_be_used_with(source, tmp_path):
    state = train(tmp_path, steps=1, seed=5, init_from=str(source), optimizer=STILL, tables_hash="a")
    chex.assert_trees_all_equal(state.params, load_for_inference(source)[0])
    own = train(tmp_path / "own", steps=1, seed=5, optimizer=STILL, tables_hash="a")
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), state.params, own.params)))


def test_it_resumes_where_it_stopped_and_not_from_the_other_run_again(source, tmp_path):
    config = {"train": {"init_from": str(source)}}
    both = {"init_from": str(source), "tables_hash": "a", "config": config}
    optimizer = OptimizerSpec(schedule="constant")
    whole = train(tmp_path / "whole", steps=6, optimizer=optimizer, **both)
    train(tmp_path / "split", steps=3, optimizer=optimizer, **both)
    chex.assert_trees_all_equal(train(tmp_path / "split", steps=6, optimizer=optimizer, **both).params, whole.params)


@pytest.mark.parametrize(
    ("system", "tables_hash", "says"),
    [
        (Tiny(hidden=24), "a", r"\['bias'\]: \(16,\) there, \(24,\) here"),
        (Tiny(), "b", "another tokenizer"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(source, tmp_path, system, tables_hash, says):
    with pytest.raises(CheckpointError, match=says):
        train(tmp_path, system=system, init_from=str(source), tables_hash=tables_hash)


def test_an_absent_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train(tmp_path, init_from=str(tmp_path / "absent"))
