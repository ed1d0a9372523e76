"""Every recipe at the scale of its paper: as many parameters as the paper's, and a step that lowers for 16 devices.

Those of images are tested beside their systems.
"""

import functools
import json
from pathlib import Path

import pytest
import simulated

from tokjax.experiment.config import config_names

SCRIPT = Path(__file__).parent / "lower_paper.py"
# Millions of parameters that a paper gives, as far as we know of one: of all, or of all but the embedding.
PUBLISHED = {
    "hat": 1000,
    "lm_7b": 7000,
    "hat_7b": 7000,
    "lexinvariant": 150,
    "megabyte": 1300 + 218,
    "wordpiece_encoder": 110,
}
PUBLISHED_WITHOUT_EMBEDDING = {"lm": 403, "m1": 3}


@functools.cache
def lowered(name):
    return json.loads(simulated.run(16, SCRIPT, name)[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, module in config_names().items() if ".vision." not in module])
def test_the_step_lowers_for_sixteen_devices(name):
    found = lowered(name)
    assert found["shardings"] > 10
    millions = sum(found["parameters"].values()) / 1e6
    if name in PUBLISHED:
        assert abs(millions / PUBLISHED[name] - 1) < 0.1, found
    if name in PUBLISHED_WITHOUT_EMBEDDING:
        millions -= found["parameters"]["embedding"] / 1e6
        assert abs(millions / PUBLISHED_WITHOUT_EMBEDDING[name] - 1) < 0.1, found


@pytest.mark.slow
def test_encoders_hold_what_bert_base_holds_but_for_what_is_stated():
    """The 110M of BERT base are 85.1M in 12 blocks, 23.4M in a table of 30,522 pieces, and a million in the rest.

    Our blocks have no biases, and gated MLPs of three matrices, 2,048 wide, for two, 3,072 wide: 85.0M. Our table has
    30,000 pieces and the mask, in a multiple of 8 rows. Positions are rotary, so that there is no table of 512; there
    are no segments and no pooler. The head has the hidden layer that BERT has for masked words and leaves out of its
    110M.

    Byte2Word has no table at its input, but one of its own at its output: of all pieces and the end of a word, read
    by four places. Of its sizes, the paper gives that its embedding is 10% of BERT's; ours is 9%.
    """
    table, hidden, backbone = 30_008 * 768, 768 * 768 + 768, 12 * (4 * 768**2 + 3 * 768 * 2048 + 2 * 768) + 768
    wordpiece, byte2word = (lowered(name)["parameters"] for name in ("wordpiece_encoder", "byte2word"))
    assert wordpiece == {"embedding": table, "backbone": backbone, "head": hidden}
    assert sum(wordpiece.values()) == 108_590_592
    pooled = (264 + 20 + 10) * 256 + 10 * 256 * 768  # bytes, places in a word and queries, and the map
    assert byte2word == {"embedding": pooled, "backbone": backbone, "head": hidden + table + 4 * 768}
    assert sum(byte2word.values()) == 110_635_008
    assert round(pooled / table, 2) == 0.09
