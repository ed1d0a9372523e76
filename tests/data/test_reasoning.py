"""Tasks that only the context answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokjax.core.errors import SpecError
from tokjax.data.reasoning import Task

END = 200
tasks = st.builds(
    Task,
    kind=st.sampled_from(["lookup", "permutation"]),
    size=st.integers(2, 6),
    questions=st.integers(1, 4),
    examples=st.integers(1, 4),
)


def rows_of(task, seed=0, fewest=0):
    return task.batch(np.random.default_rng(seed), 5, np.arange(30, 60), END, fewest)


def size_of(task, first_asked):
    """The size of a row, from where its first answer stands."""
    return first_asked // 2 if task.kind == "lookup" else first_asked // (2 * task.examples + 1)


def check_answers(task, batch):
    """Every answer follows from what stands before it; returns the sizes of the rows."""
    assert batch.ids.shape == (5, task.length)
    assert (batch.ids[:, 0] == END).all() and (batch.ids[:, 1:] == batch.targets[:, :-1]).all()
    sizes = []
    for row, mask in enumerate(batch.loss_mask):
        asked = np.flatnonzero(mask)
        size = size_of(task, int(asked[0]))
        sizes.append(size)
        for place in asked:
            seen, answer = batch.ids[row, 1 : place + 1], batch.targets[row, place]
            if task.kind == "lookup":
                pairs = dict(zip(seen[: 2 * size : 2], seen[1 : 2 * size : 2], strict=True))
                assert pairs[seen[-1]] == answer
            else:
                width = 2 * size
                order = [np.flatnonzero(seen[:size] == s)[0] for s in seen[size:width]]
                first = place // width * width
                assert seen[first : first + size][order[place - first - size]] == answer
    return sizes


@given(tasks, st.integers(0, 9))
def test_every_answer_is_in_its_context(task, seed):
    assert set(check_answers(task, rows_of(task, seed))) == {task.size}


@given(tasks, st.integers(0, 9))
def test_smaller_rows_among_the_others(task, seed):
    assert set(check_answers(task, rows_of(task, seed, fewest=2))) <= set(range(2, task.size + 1))


def test_all_sizes_come():
    task = Task("permutation", 4)
    assert {size for seed in range(9) for size in check_answers(task, rows_of(task, seed, fewest=2))} == {2, 3, 4}


@given(tasks)
def test_answers_are_counted_and_rows_are_of_the_seed(task):
    batch = rows_of(task)
    per_question = 1 if task.kind == "lookup" else task.size
    assert (batch.loss_mask.sum(axis=1) == task.questions * per_question).all()
    np.testing.assert_array_equal(batch.ids, rows_of(task).ids)
    assert (batch.ids != rows_of(task, seed=1).ids).any()


def test_impossible_tasks_are_refused():
    with pytest.raises(SpecError, match="lookup"):
        Task("copy", 3)
    with pytest.raises(SpecError, match="2 to 4"):
        Task("lookup", 4).batch(np.random.default_rng(0), 1, np.arange(8), END, fewest=5)
    with pytest.raises(SpecError, match="at least 8 symbols"):
        Task("lookup", 4).batch(np.random.default_rng(0), 1, np.arange(7), END)
