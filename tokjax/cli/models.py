"""The commands that train, score and compare models."""

import argparse
import functools
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokjax.cli.options import Command, add_processes, add_quiet, add_source, print_entries
from tokjax.core.console import INTERRUPTED, TERMINATED
from tokjax.core.errors import SpecError

_TEXT_SYSTEMS = "bytes,bpe,hat"
_IMAGE_SYSTEMS = "vqgan,titok,flextok"
_CONTEXT_BYTES = 512


def add(command: Command) -> None:
    """Adds them to the command line."""
    sub = command(
        "compare",
        _compare,
        "train several systems at equal compute and report bits per byte, or per image",
        "tokjax.experiment.compare",
    )
    data = sub.add_mutually_exclusive_group()
    add_source(data, default="pydocs")
    data.add_argument(
        "--images",
        metavar="SRC",
        help="compare tokenizers of images instead, by bits per image and distortion, on digits, photos:?size=16 or "
        "another source that `tokjax images` lists",
    )
    sub.add_argument(
        "--systems",
        help="names of systems or tokenizers, as in bytes,bpe:2048,hat (default); with --images, recipes "
        "NAME[:variant][/FIELD=VALUE...], as in vqgan,titok,flextok (default) or "
        "vqgan:smoke/quantizer=fsq:levels=8,5,5,5",
    )
    sub.add_argument(
        "--budget",
        default="1e12flops",
        help="training budget of each run: 1e13flops, 60s, 5MB of text or 50000images (default: 1e12flops)",
    )
    sub.add_argument(
        "--scale",
        choices=("smoke", "small", "paper"),
        default="small",
        help="model size, of recipes that name no variant (default: small)",
    )
    sub.add_argument("--seeds", type=int, default=3, help="runs per system (default: 3)")
    sub.add_argument("--context-bytes", type=int, help=f"text a model sees at once (default: {_CONTEXT_BYTES})")
    sub.add_argument("--out", type=Path, required=True, help="directory of results.json, plots and report.html")
    add_quiet(sub)

    sub = command(
        "train", _train, "train one model from a recipe; go on where --workdir stopped", "tokjax.experiment.run"
    )
    sub.add_argument(
        "--config", required=True, metavar="NAME|PATH.py[:variant]", help="recipe; variants smoke, small, paper"
    )
    sub.add_argument("--workdir", type=Path, required=True, help="directory of metrics.jsonl and checkpoints")
    sub.add_argument(
        "--config.FIELD", metavar="VALUE", dest="_", help="override a field, as in --config.train.steps=100"
    )
    add_quiet(sub)
    add_processes(sub)

    sub = command("eval", _eval, "score a trained model on whole documents, or images", "tokjax.experiment.run")
    sub.add_argument("--workdir", type=Path, required=True, help="directory of a training run")
    add_source(sub, default=None, text="text to score (default: the one it was trained on)")
    sub.add_argument(
        "--split", choices=("train", "valid", "test", "all"), help="default: test; all of another --source"
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command(
        "study", _study, "run the smallest honest experiment for a paper's claim", "tokjax.experiment.compare"
    )
    sub.add_argument("name", help="as listed by `tokjax study list`")
    sub.add_argument("--scale", choices=("smoke", "small", "paper"), default="small", help="default: small")
    sub.add_argument("--seeds", type=int, default=3, help="runs per system (default: 3)")
    sub.add_argument("--out", type=Path, help="directory of result.json")
    sub.add_argument(
        "--source", action="append", default=[], metavar="ROLE=SRC", help="text that the study reads, by role; repeat"
    )
    add_quiet(sub)


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from tokjax import report
    from tokjax.experiment.compare import Interrupted

    run, table = _comparison(arguments)
    try:
        results = run(arguments.out, progress=not arguments.quiet, say=print)
    except Interrupted:
        print(f"tokjax: interrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    report.write(results, arguments.out)
    Console().print(table(results))
    print(f"report: {arguments.out / 'report.html'}")
    return 0


def _comparison(arguments: argparse.Namespace) -> tuple[Callable[..., dict[str, Any]], Callable[[Any], Any]]:
    """Returns what compares text or images, and what shows that in the terminal."""
    from tokjax import report
    from tokjax.experiment.compare import CompareSpec, compare
    from tokjax.experiment.compare_images import CompareImagesSpec, compare_images
    from tokjax.experiment.contenders import split_names

    shared = {"budget": arguments.budget, "scale": arguments.scale, "seeds": arguments.seeds}
    systems = _IMAGE_SYSTEMS if arguments.images else _TEXT_SYSTEMS
    names = split_names(systems if arguments.systems is None else arguments.systems)
    if arguments.images is None:
        context = _CONTEXT_BYTES if arguments.context_bytes is None else arguments.context_bytes
        spec = CompareSpec(source=arguments.source, systems=names, context_bytes=context, **shared)
        return functools.partial(compare, spec), report.terminal_table
    if arguments.context_bytes is not None:
        raise SpecError("--context-bytes: images have no text around them; leave it out with --images.")
    of_images = CompareImagesSpec(source=arguments.images, systems=names, **shared)
    return functools.partial(compare_images, of_images), report.terminal_images_table


def _train(arguments: argparse.Namespace) -> int:
    import jax

    from tokjax.experiment import run
    from tokjax.experiment.config import load_config, override
    from tokjax.experiment.encoder import is_encoder, train_encoder
    from tokjax.experiment.image_generator import is_image_generator, train_image_generator
    from tokjax.experiment.images import is_image_tokenizer, train_image_tokenizer
    from tokjax.sharding import start_processes

    if hasattr(signal, "SIGUSR1"):  # before there are steps to trace, it would end the process
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    config = json.loads(override(load_config(arguments.config), arguments.overrides).to_json())
    train: Any = run.train_model
    if is_image_generator(config):
        train = train_image_generator
    elif is_encoder(config["system"]):
        train = train_encoder
    elif is_image_tokenizer(config["system"]):
        train = train_image_tokenizer
    with start_processes(arguments.coordinator, arguments.processes, arguments.process):
        model, interrupted_by = train(config, arguments.workdir, progress=not arguments.quiet)
        if jax.process_index() == 0:
            saved = "saved in" if model.step else "reached, nothing to save yet, in"
            print(f"step {model.step} of {model.spec.train.steps} {saved} {arguments.workdir}")
    return {"SIGINT": INTERRUPTED, "SIGTERM": TERMINATED}.get(interrupted_by or "", 0)


def _eval(arguments: argparse.Namespace) -> int:
    import dataclasses

    from tokjax.data import load_source
    from tokjax.data.images import load_images
    from tokjax.experiment import image_generator, images, run

    model: Any
    load: Any
    if image_generator.holds_image_generator(arguments.workdir):
        model, load = image_generator.load_image_generator(arguments.workdir), load_images
    elif images.holds_image_tokenizer(arguments.workdir):
        model, load = images.load_image_tokenizer(arguments.workdir), load_images
    else:
        model, load = run.load_model(arguments.workdir), load_source
    source: Any = load(arguments.source or model.spec.source)
    split = arguments.split or ("all" if arguments.source not in (None, model.spec.source) else "test")
    found = model.evaluate(source if split == "all" else source.split(split))
    result = found.summary() if hasattr(found, "summary") else dataclasses.asdict(found)
    result = {"workdir": str(arguments.workdir), "step": model.step, "source": source.name, "split": split, **result}
    if arguments.json:
        print(json.dumps(result))
        return 0
    for name, value in result.items():
        if name == "by_position":
            value = "  ".join(f"{first}+ {bits:.3f}" for first, bits in value)
        print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
    return 0


def _study(arguments: argparse.Namespace) -> int:
    from tokjax.core.registry import studies

    if arguments.name == "list":
        print_entries(studies.entries())
        return 0
    study = studies[arguments.name]
    if arguments.out is None:
        raise SpecError("--out: missing; give the directory of result.json.")
    sources = {}
    for assignment in arguments.source:
        role, equals, address = assignment.partition("=")
        if not equals:
            raise SpecError(f"--source {assignment}: write ROLE=SRC, as in text=file:*.txt.")
        sources[role] = address
    from rich.console import Console

    from tokjax.experiment.compare import Interrupted
    from tokjax.report.study import terminal_study
    from tokjax.studies import module_of

    try:
        result = study(
            scale=arguments.scale,
            seeds=arguments.seeds,
            directory=arguments.out,
            progress=not arguments.quiet,
            sources=sources,
        )
    except Interrupted:
        print(f"tokjax: interrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    Console().print(terminal_study(result, module_of(arguments.name).TABLES))
    print(f"result: {arguments.out / 'result.json'}")
    return 0
