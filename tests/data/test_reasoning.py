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


def rows_of(task, seed=0):
    return task.batch(np.random.default_rng(seed), 5, np.arange(30, 60), END)


@given(tasks, st.integers(0, 9))
def test_every_answer_is_in_its_context(task, seed):
    batch = rows_of(task, seed)
    assert batch.ids.shape == (5, task.length)
    assert (batch.ids[:, 0] == END).all() and (batch.ids[:, 1:] == batch.targets[:, :-1]).all()
    for row in range(5):
        for place in np.flatnonzero(batch.loss_mask[row]):
            seen, answer = batch.ids[row, 1 : place + 1], batch.targets[row, place]
            if task.kind == "lookup":
                pairs = dict(zip(seen[: 2 * task.size : 2], seen[1 : 2 * task.size : 2], strict=True))
                assert pairs[seen[-1]] == answer
            else:
                width = 2 * task.size
                order = [np.flatnonzero(seen[: task.size] == s)[0] for s in seen[task.size : width]]
                first = place // width * width
                assert seen[first : first + task.size][order[place - first - task.size]] == answer


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
    with pytest.raises(SpecError, match="at least 8 symbols"):
        Task("lookup", 4).batch(np.random.default_rng(0), 1, np.arange(7), END)
