"""The commands that draw text and images from trained models."""

import argparse
import os
import sys
from pathlib import Path

from tokjax.cli.options import Command
from tokjax.core.errors import SpecError


def add(command: Command) -> None:
    """Adds them to the command line."""
    sub = command("sample", _sample, "continue a prompt with a trained model", "tokjax.experiment.run")
    sub.add_argument("--workdir", type=Path, required=True, help="directory of a training run")
    sub.add_argument("--prompt", default="", help="text to continue")
    sub.add_argument(
        "--steps", type=int, default=200, help="symbols to draw at most, ends of words included (default: 200)"
    )
    sub.add_argument("--temperature", type=float, default=0.8, help="0 takes the most likely symbol (default: 0.8)")
    sub.add_argument("--top-k", type=int, help="draw from the k most likely symbols")
    sub.add_argument("--top-p", type=float, help="draw from the fewest symbols that hold this probability")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same text (default: 0)")

    sub = command(
        "generate", _generate, "draw images with a trained generator of codes", "tokjax.experiment.image_generator"
    )
    sub.add_argument("--workdir", type=Path, required=True, help="directory of a training run")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of 0.png, 1.png, ..., sheet.png")
    sub.add_argument("--count", type=int, default=16, help="images to draw (default: 16)")
    sub.add_argument("--label", metavar="CLASS", help="draw this class (default: all in turn, where there are any)")
    sub.add_argument(
        "--sampling",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="how codes are drawn; repeat for more. Of maskgit: steps, temperature, guidance, schedule, power; of a "
        "language model: temperature, top_k, top_p, guidance. With c and u the logits with the class and without, "
        "guidance g is c + g (c - u) of maskgit and u + g (c - u) of a language model",
    )
    sub.add_argument("--seed", type=int, default=0, help="same seed, same images (default: 0)")


def _sample(arguments: argparse.Namespace) -> int:
    import codecs

    from tokjax.experiment import run
    from tokjax.generate.sampling import SamplingSpec

    sampling = SamplingSpec(temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p)
    if arguments.steps < 1:
        raise SpecError(f"--steps: got {arguments.steps}; draw at least 1 symbol.")
    _check_seed(arguments.seed)
    model = run.load_model(arguments.workdir)
    characters = codecs.getincrementaldecoder("utf-8")("replace")

    def show(piece: bytes, final: bool = False) -> None:
        sys.stdout.buffer.write(characters.decode(piece, final).encode())  # UTF-8 whatever the locale
        sys.stdout.buffer.flush()

    prompt = os.fsencode(arguments.prompt)  # the bytes that were typed, whether text or not
    show(prompt)
    for piece in model.stream(prompt, steps=arguments.steps, seed=arguments.seed, sampling=sampling):
        show(piece)
    show(b"", final=True)
    print()
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    import numpy as np

    from tokjax.core.files import check_vacant, write_bytes
    from tokjax.core.spec import read_value
    from tokjax.data.images.pixels import encode_png, sheet, to_uint8
    from tokjax.experiment.image_generator import load_image_generator

    if arguments.count < 1:
        raise SpecError(f"--count: got {arguments.count}; draw at least 1 image.")
    _check_seed(arguments.seed)
    check_vacant(arguments.out)
    fields = {}
    for assignment in arguments.sampling:
        field, equals, value = assignment.partition("=")
        if not equals:
            raise SpecError(f"--sampling {assignment}: write FIELD=VALUE.")
        fields[field] = read_value(value)
    model = load_image_generator(arguments.workdir)
    sampling = model.sampling(fields)
    if arguments.label is None:
        labels = np.arange(arguments.count) % len(model.classes) if model.classes else np.full(arguments.count, -1)
    elif arguments.label in model.classes:
        labels = np.full(arguments.count, model.classes.index(arguments.label))
    else:
        known = (
            f"use one of {', '.join(model.classes)}." if model.classes else "its images have no classes; leave it out."
        )
        raise SpecError(f"--label: got {arguments.label!r}; {known}")
    pictures = to_uint8(model.images(labels, seed=arguments.seed, sampling=sampling))
    for number, picture in enumerate(pictures):
        write_bytes(arguments.out / f"{number}.png", encode_png(picture))
    write_bytes(arguments.out / "sheet.png", encode_png(sheet(pictures)))
    print(f"{arguments.count} images: {arguments.out / 'sheet.png'}")
    return 0


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise SpecError(f"--seed: got {seed}; give a whole number from 0 to 2**32 - 1.")
