"""Kernels on eight simulated devices: each does its own part and no other, whatever the mesh."""

import json
from pathlib import Path

import pytest
import simulated


@pytest.fixture(scope="module")
def checks():
    script = Path(__file__).with_name("eight_devices_kernels.py")
    return [json.loads(line) for line in simulated.run(8, script)]


def of(checks, operation):
    found = [check for check in checks if check["operation"] == operation]
    assert found
    return found


def test_word_attention_splits_rows_slots_and_heads_without_gathering_any(checks):
    for check in of(checks, "word_attention"):
        assert check["error"] < 1e-5 and check["gradient_error"] < 1e-5
        assert check["parts"] == check["expected_parts"], check["mesh"]
        assert not check["gathers"], check


def test_nearest_codes_are_found_where_the_vectors_are(checks):
    for check in of(checks, "nearest"):
        assert check["equal"] and check["parts"] == check["expected_parts"], check
        assert not check["gathers"], check


def test_parts_of_a_codebook_compare_their_best_codes_only(checks):
    for check in of(checks, "nearest_split"):
        assert check["equal"], check
        # Of every vector on a device a cost and an index from each part of the codebook, and no code.
        assert check["gathered_numbers"] <= check["expected_numbers"], check


def test_what_the_devices_do_not_divide_is_not_split(checks):
    for check in of(checks, "uneven"):
        assert check["error"] < 1e-5 and check["gradient_error"] < 1e-5
        assert check["parts"] == check["expected_parts"]


def test_a_stack_over_words_splits_its_blocks(checks):
    for check in of(checks, "word_stack"):
        assert check["error"] < 1e-5
        assert not check["gathers"], check
