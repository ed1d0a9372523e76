"""What `tokjax sample` shows of a model over words: whole characters, as they come, whatever the prompt."""

import functools
import os
import sys
import types

import jax
import pytest

from tokjax.cli import main
from tokjax.core.spec import build
from tokjax.experiment import run
from tokjax.experiment.config import load_config, override
from tokjax.nn.param import materialize
from tokjax.text import fit_tokenizer

OPTIONS = ("--steps", "30", "--temperature", "1.2", "--top-k", "200", "--top-p", "0.99", "--seed", "5")
SHALLOW = tuple(f"system.{stack}.layers=1" for stack in ("backbone", "encoder", "decoder"))


@functools.cache
def model():
    """One that has learned nothing: drawn symbol by symbol, its text would be no UTF-8."""
    config = override(load_config("hat:smoke"), SHALLOW).to_dict()
    fitted = fit_tokenizer("words", [b"text"], cap=config["tokenizer"]["cap"])
    system = run.build_system(config["system"], fitted)
    params = materialize(system.declare(), jax.random.key(0))
    return run.Model(build(run.RunSpec, config), fitted, system, params, step=0)


@pytest.fixture
def sample(monkeypatch):
    """Runs the command; returns what it wrote, piece by piece."""
    monkeypatch.setattr(run, "load_model", lambda _: model())

    def sampled(prompt: bytes, *options: str) -> list[bytes]:
        pieces: list[bytes] = []
        buffer = types.SimpleNamespace(write=pieces.append, flush=lambda: None)
        shown = types.SimpleNamespace(
            buffer=buffer, flush=buffer.flush, write=lambda text: pieces.append(text.encode())
        )
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", shown)
            assert main(["sample", "--workdir", "w", "--prompt", os.fsdecode(prompt), *options]) == 0
        return pieces

    return sampled


@pytest.mark.parametrize("prompt", [b"", b"Paragraph 7 sa", b"na\xc3", b"\xf0\x9f\x98"])
def test_no_piece_ends_inside_a_character(sample, prompt):
    pieces = sample(prompt, *OPTIONS)
    text = "".join(piece.decode() for piece in pieces)
    assert text.encode().startswith(prompt) and "\N{REPLACEMENT CHARACTER}" not in text
    assert len([piece for piece in pieces if piece]) > 5
    assert sample(prompt, *OPTIONS) == pieces


def test_it_shows_what_the_model_streams(sample):
    prompt = b"Paragraph 7 sa"
    written = b"".join(model().stream(prompt, steps=30, seed=5))
    assert b"".join(sample(prompt, "--steps", "30", "--temperature", "1", "--seed", "5")) == prompt + written + b"\n"


def test_bytes_that_are_no_text_are_marked(sample):
    shown = b"".join(sample(b"a\xff", *OPTIONS)).decode()
    assert shown.startswith("a\N{REPLACEMENT CHARACTER}") and shown.count("\N{REPLACEMENT CHARACTER}") == 1
