"""Several processes make one run: the losses, the data and the files of one process, whatever their number."""

import member
import numpy as np
import pytest
import several

from tokjax.train import read_evaluations, read_metrics

# A language model, an encoder, an image tokenizer: each family loads and evaluates its own way.
RECIPES = ("hat", "byte2word", "titok")


def training(recipe, workdir, steps=5, **mesh):
    """What a process is asked for, and does."""
    fields = {"steps": steps, "log_every": 1, "eval_every": steps, "checkpoint_every": steps}
    return [
        "train", recipe, str(workdir), *(f"train.{name}={value}" for name, value in fields.items()),
        *(f"mesh.{axis}={size}" for axis, size in mesh.items()),
        "optimizer.warmup_steps=1", "optimizer.schedule=constant",
    ]  # fmt: skip


def losses(workdir):
    return [line["loss"] for line in read_metrics(workdir)]


def scores(workdir):
    """What was evaluated; of images not how many codes occur, as vectors between two codes may go to either."""
    names = ("bits_per_byte", "next_word_accuracy", "bits_per_word", "word_accuracy", "psnr", "squared_error")
    return np.array([[line[name] for name in names if name in line] for line in read_evaluations(workdir)])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    for recipe in RECIPES:
        assert member.train(*training(recipe, folder / recipe)[1:]) == 5
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("count", "mesh"), [(2, {"data": 2}), (4, {"data": 2, "tensor": 2})])
def test_losses_are_those_of_one_process(alone, tmp_path, count, mesh):
    recipes = RECIPES if count == 2 else RECIPES[:1]
    several.run(count, [training(recipe, tmp_path / recipe, **mesh) for recipe in recipes])
    for recipe in recipes:
        # Sums over the batch are taken in another order, and five steps of Adam carry the difference on.
        np.testing.assert_allclose(losses(tmp_path / recipe), losses(alone / recipe), rtol=2e-4)
        np.testing.assert_allclose(scores(tmp_path / recipe), scores(alone / recipe), rtol=5e-3)


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_on_another_mesh(alone, tmp_path):
    hat = tmp_path / "hat"
    several.run(2, [training("hat", hat, steps=2, data=2)])
    assert member.train(*training("hat", hat, steps=3)[1:]) == 3
    several.run(2, [training("hat", hat, steps=5, data=1, tensor=2)])
    assert [line["step"] for line in read_metrics(hat)] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(losses(hat), losses(alone / "hat"), rtol=2e-4)


@pytest.mark.slow
def test_rows_of_all_processes_are_the_batch(tmp_path):
    meshes = [{"data": 4}, {"data": 2, "tensor": 2}, {"data": 1, "tensor": 4}, {"data": 1, "fsdp": 2, "sequence": 2}]
    said = several.run(2, [["batch", 8, mesh] for mesh in meshes], devices=2)
    for number, parts in enumerate((2, 2, 1, 2)):
        for process in said:
            assert process[number]["parts"] == parts
            assert process[number]["rows"] == [3 * row for row in range(8)] and process[number]["right"]
    assert [process[0]["part"] for process in said] == [0, 1]
    assert [process[2]["part"] for process in said] == [0, 0]


@pytest.mark.slow
def test_what_the_first_process_finds_holds_for_all():
    cases = [("SpecError", True), ("OSError", True), ("ValueError", True), ("SpecError", False)]
    first, second = several.run(2, [["agree", *case] for case in cases])
    assert [answer.get("error") for answer in first] == ["SpecError", "OSError", "ValueError", None]
    assert [answer.get("error") for answer in second] == ["SpecError", "OutputError", "PeerError", None]
    assert {answer.get("message") for answer in (*first[:3], *second[:3])} == {"it is full"}
    assert first[3] == second[3] == {"value": {"chosen": "SpecError"}}
