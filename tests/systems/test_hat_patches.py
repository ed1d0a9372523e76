"""The hierarchical model on patches: the same model, except that where a word ends is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.experiment.contenders import contender
from tokjax.experiment.run import build_system
from tokjax.generate.decoding import prefill
from tokjax.nn.param import materialize
from tokjax.objectives.language import stream_batch
from tokjax.studies.hat import PATCHES
from tokjax.text import fit_tokenizer
from tokjax.text.words import END_OF_WORD

TEXT = "Zürich, 東京 and naïve cafés: 12,345 ways.".encode()


@functools.cache
def case():
    config = contender(PATCHES, source="pydocs", scale="smoke").config.to_dict()
    fields = dict(config["tokenizer"])
    fitted = fit_tokenizer(fields.pop("name"), [TEXT], **fields)
    system = build_system(config["system"], fitted)
    params = jax.tree.map(lambda p: 1.5 * p, materialize(system.declare(), jax.random.key(0)))
    ids = jnp.asarray([[fitted.end_of_document, *fitted.encode(TEXT).tolist()]], jnp.int32)
    return system, params, ids


def test_a_full_patch_can_only_end_and_another_may_go_on():
    system, params, ids = case()
    ends = np.flatnonzero(np.asarray(ids[0]) == END_OF_WORD)
    assert np.diff(ends).tolist() == [9] * (len(TEXT) // 8 - 1) + [len(TEXT) % 8 + 1]
    bytes_at = jax.nn.softmax(system.logits(params, stream_batch(ids))[0][0], axis=-1)[:, :END_OF_WORD].sum(axis=-1)
    assert (np.asarray(bytes_at[ends[:-1] - 1]) == 0).all()
    assert (np.delete(np.asarray(bytes_at), ends[:-1] - 1) > 0).all()


def test_cached_logits_equal_full_logits():
    system, params, ids = case()
    whole, overflow = system.logits(params, stream_batch(ids).replace(loss_mask=jnp.ones(ids.shape)))
    assert overflow == 0
    stepwise, _ = prefill(system, params, system.init_decode(params, 1, ids.shape[1]), ids)
    np.testing.assert_allclose(stepwise, whole, atol=2e-4)  # sums in another order


def test_another_cap_or_tokenizer_is_refused():
    config = contender("hat/patches:cap=8", source="pydocs", scale="smoke").config.to_dict()
    with pytest.raises(SpecError, match=r"system\.cap"):
        build_system(config["system"], fit_tokenizer("patches", [TEXT], cap=8))
    with pytest.raises(SpecError, match="'bytes'"):
        case()[0].accept("bytes", fit_tokenizer("bytes", [TEXT]).spec)
