"""Rows of codes: what is read, what is predicted, every image once an epoch, the same rows for any number of hosts."""

import numpy as np
import pytest

from tokjax.core.errors import SourceError, SpecError
from tokjax.data.images.code_rows import (
    CodeRows,
    CodeVocabulary,
    eval_code_rows,
    eval_codes,
    train_code_rows,
    train_codes,
)

VOCABULARY = CodeVocabulary(codes=50, classes=3)  # ids: 0 to 49, 50 to 52, 53
CODES = np.random.default_rng(0).integers(0, 50, (10, 4))
LABELS = np.array([0, 1, 2, -1, 0, 1, 2, 0, 1, 2])
ROWS = CodeRows(vocabulary=VOCABULARY, codes=CODES, labels=LABELS)


def image_of(targets):
    return int(np.flatnonzero((targets == CODES).all(axis=1))[0])


def test_a_row_reads_its_class_and_predicts_its_codes():
    (batch,) = eval_code_rows(ROWS, batch_size=10)
    assert VOCABULARY.size == 54
    assert batch.ids[:, 0].tolist() == [50, 51, 52, 53, 50, 51, 52, 50, 51, 52]
    np.testing.assert_array_equal(batch.ids[:, 1:], CODES[:, :-1])
    np.testing.assert_array_equal(batch.targets, CODES)
    np.testing.assert_array_equal(batch.positions, np.tile(np.arange(4), (10, 1)))
    assert np.all(batch.segment_ids == 1) and np.all(batch.loss_mask == 1) and not np.any(batch.units)
    assert all(array.dtype == (np.float32 if name == "loss_mask" else np.int32) for name, array in vars(batch).items())


def test_an_evaluation_has_every_image_once_and_padding_does_not_count():
    batches = list(eval_code_rows(ROWS, batch_size=4))
    seen = np.concatenate([b.targets[b.segment_ids[:, 0] == 1] for b in batches])
    np.testing.assert_array_equal(seen, CODES)
    assert [b.targets.shape for b in batches] == [(4, 4)] * 3 and np.all(batches[-1].loss_mask[2:] == 0)


def test_an_epoch_visits_each_image_once_and_hosts_share_a_batch():
    batches = [train_code_rows(ROWS, step, seed=3, batch_size=2) for step in range(10)]
    images = [image_of(targets) for batch in batches for targets in batch.targets]
    assert sorted(images[:10]) == sorted(images[10:]) == list(range(10)) and images[:10] != images[10:]
    whole = train_code_rows(ROWS, 4, seed=3, batch_size=4)
    parts = [train_code_rows(ROWS, 4, seed=3, batch_size=4, host=host, hosts=2) for host in (0, 1)]
    for name, array in vars(whole).items():
        np.testing.assert_array_equal(array, np.concatenate([vars(part)[name] for part in parts]))


def test_codes_beside_their_class_are_the_images_of_the_rows():
    for host in (0, 1):
        place = {"seed": 3, "batch_size": 4, "host": host, "hosts": 2}
        batch = train_codes(ROWS, 2, **place)
        np.testing.assert_array_equal(batch.codes, train_code_rows(ROWS, 2, **place).targets)
        assert batch.labels.tolist() == [LABELS[image_of(codes)] for codes in batch.codes] and np.all(batch.mask == 1)
    batches = list(eval_codes(ROWS, batch_size=4))
    for name, wanted in (("codes", CODES), ("labels", LABELS)):
        found = np.concatenate([getattr(batch, name)[batch.mask > 0] for batch in batches])
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == np.int32
    assert batches[-1].mask.tolist() == [1, 1, 0, 0] and batches[-1].labels[2:].tolist() == [-1, -1]


def test_classes_are_dropped_as_often_as_asked():
    def untold(share):
        batch = train_code_rows(ROWS, 1, seed=0, batch_size=2000, class_drop=share)
        labels = LABELS[[image_of(targets) for targets in batch.targets]]
        told = batch.ids[:, 0] != VOCABULARY.no_class
        np.testing.assert_array_equal(batch.ids[told, 0] - 50, labels[told])
        return 1 - np.mean(told[labels >= 0])

    assert untold(0.0) == 0 and untold(1.0) == 1
    assert abs(untold(0.3) - 0.3) < 0.035  # three standard errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codes": CODES + 50}, "codes"),
        ({"codes": -np.ones((10, 4), int)}, "codes"),
        ({"codes": CODES[0]}, "expected"),
        ({"labels": LABELS[:3]}, "expected"),
        ({"labels": LABELS + 1}, "labels"),
    ],
)
def test_what_does_not_fit_the_vocabulary_is_refused(fields, message):
    with pytest.raises(SourceError, match=message):
        CodeRows(**{"vocabulary": VOCABULARY, "codes": CODES, "labels": LABELS} | fields)


def test_impossible_numbers_are_refused():
    with pytest.raises(SpecError, match="class_drop"):
        train_code_rows(ROWS, 0, seed=0, batch_size=2, class_drop=1.5)
    with pytest.raises(SpecError, match="batch_size"):
        eval_code_rows(ROWS, batch_size=0)
    with pytest.raises(SpecError, match="classes"):
        CodeVocabulary(codes=3, classes=-1)
