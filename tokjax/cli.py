"""The command line: parses, builds, calls. Every import that costs time happens inside the command that needs it."""

import argparse
import importlib
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import tokjax
from tokjax.core.console import INTERRUPTED, drop_output, exit_on_interrupt, reading, show_warning, writing
from tokjax.core.errors import OutputError, SpecError, TokjaxError

_EXAMPLES = """\
start here:
  tokjax compare --source pydocs --systems bytes,bpe,hat --budget 1e12flops --out runs/first
      train three ways of tokenizing the same text at equal compute; open runs/first/report.html
  tokjax compare --source 'file:books/*.txt?records=paragraphs' --systems bpe:2048,bpe:8192 --budget 60s --out runs/mine
  tokjax fit --tokenizer bpe --source pydocs --vocab 8192 --out runs/bpe
  tokjax encode --tokenizer runs/bpe < README.md > ids && tokjax decode --tokenizer runs/bpe < ids
  tokjax tokenize --tokenizer runs/bpe --source pydocs --out runs/ids
  tokjax train --config lm:small --workdir runs/lm --config.optimizer.learning_rate=1e-3
  tokjax sample --workdir runs/lm --prompt 'The '

`tokjax COMMAND --help` explains each command. A run that was stopped goes on when started again.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for the user's mistakes, 130 after Ctrl-C, 1 otherwise."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.overrides = [a.removeprefix("--config.") for a in rest if a.startswith("--config.")]
    unknown = [a for a in rest if not a.startswith("--config.")]
    if unknown or (arguments.overrides and arguments.command != "train"):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    warnings.showwarning = show_warning
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # orbax forgets the futures of a save that raised
    try:
        with exit_on_interrupt():
            importlib.import_module(arguments.loads)
        code = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except TokjaxError as error:
        print(f"tokjax: error: {error}", file=sys.stderr)
        drop_output()
        return error.exit_code
    except KeyboardInterrupt:
        print("tokjax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()
        return 1
    except OSError as error:  # the files that tokjax names itself raise typed errors; what is left is printing
        problem = f"{error.filename or 'standard output'}: {error.strerror or error}"
        print(f"tokjax: error: {problem}. Free space or choose another place.", file=sys.stderr)
        drop_output()
        return OutputError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokjax",
        description="What should a token be? Tokenizers, models and measurements on JAX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tokjax {tokjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, loads: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        sub.set_defaults(run=run, loads=loads)
        return sub

    sub = command(
        "compare",
        _compare,
        "train several systems at equal compute and report bits per byte",
        "tokjax.experiment.compare",
    )
    _source(sub, default="pydocs")
    sub.add_argument(
        "--systems", default="bytes,bpe,hat", help="names of systems or tokenizers, as in bytes,bpe:2048,hat"
    )
    sub.add_argument("--budget", default="1e12flops", help="training budget of each run: 1e13flops, 60s or 5MB of text")
    sub.add_argument(
        "--scale", choices=("smoke", "small", "paper"), default="small", help="model size (default: small)"
    )
    sub.add_argument("--seeds", type=int, default=3, help="runs per system (default: 3)")
    sub.add_argument("--context-bytes", type=int, default=512, help="text a model sees at once (default: 512)")
    sub.add_argument("--out", type=Path, required=True, help="directory of results.json, plots and report.html")
    _quiet(sub)

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
    _quiet(sub)

    sub = command("eval", _eval, "score a trained model on whole documents", "tokjax.experiment.run")
    sub.add_argument("--workdir", type=Path, required=True, help="directory of a training run")
    _source(sub, default=None, text="text to score (default: the one it was trained on)")
    sub.add_argument(
        "--split", choices=("train", "valid", "test", "all"), help="default: test; all of another --source"
    )
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = command("sample", _sample, "continue a prompt with a trained model", "tokjax.experiment.run")
    sub.add_argument("--workdir", type=Path, required=True, help="directory of a training run")
    sub.add_argument("--prompt", default="", help="text to continue")
    sub.add_argument("--steps", type=int, default=200, help="symbols to draw at most (default: 200)")
    sub.add_argument("--temperature", type=float, default=0.8, help="0 takes the most likely symbol (default: 0.8)")
    sub.add_argument("--top-k", type=int, help="draw from the k most likely symbols")
    sub.add_argument("--top-p", type=float, help="draw from the fewest symbols that hold this probability")
    sub.add_argument("--seed", type=int, default=0, help="same seed, same text (default: 0)")

    sub = command("fit", _fit, "learn a tokenizer and save it", "tokjax.text")
    sub.add_argument("--tokenizer", required=True, metavar="NAME", help="as listed by `tokjax tokenizers`")
    _source(sub, default="pydocs")
    sub.add_argument("--vocab", type=int, help="number of tokens")
    sub.add_argument(
        "--split", choices=("train", "valid", "test", "all"), default="all", help="records used (default: all)"
    )
    sub.add_argument("--option", action="append", default=[], metavar="FIELD=VALUE", help="another field of its spec")
    sub.add_argument("--out", type=Path, required=True, help="directory to write")

    for name, run, text in (
        ("encode", _encode, "turn bytes into ids"),
        ("decode", _decode, "turn ids back into the same bytes"),
    ):
        sub = command(
            name, run, f"{text}: little-endian uint16 ids, uint32 when the vocabulary exceeds 65,536", "tokjax.text"
        )
        sub.add_argument(
            "--tokenizer", required=True, metavar="DIR|NAME|FILE", help="fitted, built-in, or a file to import"
        )
        sub.add_argument("--text", action="store_true", help="ids are decimal numbers, one per line")
        sub.add_argument("input", nargs="?", help="file to read (default: standard input)")
        sub.add_argument("output", nargs="?", help="file to write (default: standard output)")

    _tokenize_arguments(
        command(
            "tokenize", _tokenize, "write the ids of a corpus, to train on; go on where --out stopped", "tokjax.text"
        )
    )

    sub = command(
        "export", _export, "write a bpe or compiled tokenizer as a Hugging Face tokenizer.json", "tokjax.text"
    )
    sub.add_argument("--tokenizer", required=True, metavar="DIR", help="a fitted tokenizer")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")

    sub = command(
        "study", _study, "run the smallest honest experiment for a paper's claim", "tokjax.experiment.compare"
    )
    sub.add_argument("name", help="as listed by `tokjax study list`")
    sub.add_argument("--scale", choices=("smoke", "small", "paper"), default="small", help="default: small")
    sub.add_argument("--seeds", type=int, default=3, help="runs per system (default: 3)")
    sub.add_argument("--out", type=Path, help="directory of result.json")
    _quiet(sub)

    for name, text in (("systems", "models"), ("tokenizers", "tokenizers"), ("sources", "sources of text")):
        command(name, _list, f"list the registered {text}", "tokjax.core.registry")
    command("papers", _papers, "list the papers whose systems are implemented", "tokjax.core.registry")
    return parser


def _source(parser: argparse.ArgumentParser, *, default: str | None, text: str = "") -> None:
    kinds = "pydocs, stdlib, file:GLOB, jsonl:GLOB, tfds:NAME, array_record:GLOB, tokenized:DIR"
    parser.add_argument("--source", default=default, metavar="SRC", help=text or f"{kinds} (default: {default})")


def _tokenize_arguments(sub: argparse.ArgumentParser) -> None:
    _source(sub, default="pydocs")
    sub.add_argument(
        "--tokenizer", required=True, metavar="DIR|NAME|FILE", help="fitted, built-in, or a file to import"
    )
    sub.add_argument("--out", type=Path, required=True, help="directory of shards, to be read as tokenized:DIR")
    sub.add_argument(
        "--split", choices=("train", "valid", "test", "all"), default="all", help="records used (default: all)"
    )
    sub.add_argument("--shards", type=int, help="files to write (default: one for 256 MiB of text, at least 16)")
    sub.add_argument("--workers", type=int, help="processes on this machine (default: one for each processor)")
    sub.add_argument(
        "--runner", metavar="NAME", help="Apache Beam runner: DirectRunner, DataflowRunner, FlinkRunner, SparkRunner"
    )
    sub.add_argument(
        "--beam", action="append", default=[], metavar="KEY=VALUE", help="option of the Beam pipeline; repeat for more"
    )
    _quiet(sub)


def _quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _compare(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from tokjax import report
    from tokjax.experiment.compare import CompareSpec, Interrupted, compare

    spec = CompareSpec(
        source=arguments.source,
        systems=tuple(name.strip() for name in arguments.systems.split(",") if name.strip()),
        budget=arguments.budget,
        scale=arguments.scale,
        seeds=arguments.seeds,
        context_bytes=arguments.context_bytes,
    )
    try:
        results = compare(spec, arguments.out, progress=not arguments.quiet, say=print)
    except Interrupted:
        print(f"tokjax: interrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    report.write(results, arguments.out)
    Console().print(report.terminal_table(results))
    print(f"report: {arguments.out / 'report.html'}")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from tokjax.experiment import run
    from tokjax.experiment.config import load_config, override

    config = override(load_config(arguments.config), arguments.overrides)
    model, interrupted_by = run.train_model(
        json.loads(config.to_json()), arguments.workdir, progress=not arguments.quiet
    )
    saved = "saved in" if model.step else "reached, nothing to save yet, in"
    print(f"step {model.step} of {model.spec.train.steps} {saved} {arguments.workdir}")
    return INTERRUPTED if interrupted_by == "SIGINT" else 0


def _eval(arguments: argparse.Namespace) -> int:
    import dataclasses

    from tokjax.data import load_source
    from tokjax.experiment import run

    model = run.load_model(arguments.workdir)
    source = load_source(arguments.source or model.spec.source)
    split = arguments.split or ("all" if arguments.source not in (None, model.spec.source) else "test")
    documents = list(source if split == "all" else source.split(split))
    result = dataclasses.asdict(model.evaluate(documents))
    result = {"workdir": str(arguments.workdir), "step": model.step, "source": source.name, "split": split, **result}
    if arguments.json:
        print(json.dumps(result))
        return 0
    for name, value in result.items():
        if name == "by_position":
            value = "  ".join(f"{first}+ {bits:.3f}" for first, bits in value)
        print(f"{name:20} {value:.4f}" if isinstance(value, float) else f"{name:20} {value}")
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    import codecs

    from tokjax.experiment import run
    from tokjax.generate.sampling import SamplingSpec

    sampling = SamplingSpec(temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p)
    if arguments.steps < 1:
        raise SpecError(f"--steps: got {arguments.steps}; draw at least 1 symbol.")
    if not 0 <= arguments.seed < 2**32:
        raise SpecError(f"--seed: got {arguments.seed}; give a whole number from 0 to 2**32 - 1.")
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


def _fit(arguments: argparse.Namespace) -> int:
    from tokjax.core.spec import read_value
    from tokjax.data import load_source
    from tokjax.text import fit_tokenizer

    fields: dict[str, Any] = {}
    for option in arguments.option:
        name, equals, value = option.partition("=")
        if not equals:
            raise SpecError(f"--option {option}: write FIELD=VALUE.")
        fields[name] = read_value(value)
    if arguments.vocab is not None:
        fields["vocab_size"] = arguments.vocab
    if arguments.out.exists() and any(arguments.out.iterdir() if arguments.out.is_dir() else [1]):
        raise OutputError(f"--out {arguments.out} exists and is not empty. Choose another place.")
    source = load_source(arguments.source)
    records = source if arguments.split == "all" else source.split(arguments.split)
    if "entropy" in fields:
        from tokjax.experiment.entropy import resolve

        fields = resolve(fields)
    fitted = fit_tokenizer(arguments.tokenizer, records, **fields)
    fitted.save(arguments.out)
    print(f"{fitted.name}: {fitted.size} tokens from {len(records)} records of {source.name}, hash {fitted.hash}")
    print(f"saved in {arguments.out}")
    return 0


def _encode(arguments: argparse.Namespace) -> int:
    from tokjax.text import load_tokenizer
    from tokjax.text.stream import encode_stream

    fitted = load_tokenizer(arguments.tokenizer)
    with reading(arguments.input) as reader, writing(arguments.output) as writer:
        if not arguments.text and writer.isatty():
            raise OutputError("Ids are binary; send them to a file or a pipe, or use --text.")
        encode_stream(fitted, reader, writer, text=arguments.text)
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    from tokjax.text import load_tokenizer
    from tokjax.text.stream import decode_stream

    fitted = load_tokenizer(arguments.tokenizer)
    with reading(arguments.input) as reader, writing(arguments.output) as writer:
        decode_stream(fitted, reader, writer, text=arguments.text)
    return 0


def _tokenize(arguments: argparse.Namespace) -> int:
    from tokjax.data.tokenized.write import tokenize_source
    from tokjax.text import load_tokenizer

    out = arguments.out
    try:
        dataset = tokenize_source(
            arguments.source,
            load_tokenizer(arguments.tokenizer),
            out,
            split=arguments.split,
            shards=arguments.shards,
            workers=arguments.workers,
            runner=arguments.runner,
            runner_options=arguments.beam,
            say=(lambda line: None) if arguments.quiet else print,
        )
    except KeyboardInterrupt:
        print(f"tokjax: interrupted; the same command goes on from {out}", file=sys.stderr)
        return INTERRUPTED
    print(f"{dataset.documents} documents, {dataset.bytes} bytes: {dataset.ids} ids in {dataset.shards} shards")
    print(
        f"saved in {out}; to train on it: --config.source=tokenized:{out} --config.tokenizer.name={out / 'tokenizer'}"
    )
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from tokjax.text import load_tokenizer
    from tokjax.text.export import export_tokenizer

    export_tokenizer(load_tokenizer(arguments.tokenizer), arguments.out)
    print(f"saved in {arguments.out}")
    return 0


def _study(arguments: argparse.Namespace) -> int:
    from tokjax.core.registry import studies

    if arguments.name == "list":
        _print_entries(studies.entries())
        return 0
    study = studies[arguments.name]
    if arguments.out is None:
        raise SpecError("--out: missing; give the directory of result.json.")
    from tokjax.experiment.compare import Interrupted

    try:
        result = study(
            scale=arguments.scale, seeds=arguments.seeds, directory=arguments.out, progress=not arguments.quiet
        )
    except Interrupted:
        print(f"tokjax: interrupted; the same command goes on from {arguments.out}", file=sys.stderr)
        return INTERRUPTED
    print(result.verdict)
    print(f"result: {arguments.out / 'result.json'}")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from tokjax.core import registry

    _print_entries(getattr(registry, arguments.command).entries())
    return 0


def _print_entries(entries: list[Any]) -> None:
    for entry in entries:
        print(f"{entry.name:14} {entry.summary}")


def _papers(arguments: argparse.Namespace) -> int:
    del arguments
    from tokjax.report.papers import papers_text

    print(papers_text())
    return 0
