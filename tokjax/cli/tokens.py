"""The commands that turn text into tokens and back."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tokjax.cli.options import Command, add_quiet, add_source
from tokjax.core.console import INTERRUPTED, reading, writing
from tokjax.core.errors import OutputError, SpecError


def add(command: Command) -> None:
    """Adds them to the command line."""
    sub = command("fit", _fit, "learn a tokenizer and save it", "tokjax.text")
    sub.add_argument("--tokenizer", required=True, metavar="NAME", help="as listed by `tokjax tokenizers`")
    add_source(sub, default="pydocs")
    sub.add_argument("--vocab", type=int, help="number of tokens")
    sub.add_argument(
        "--split", choices=("train", "valid", "test", "all"), default="all", help="records used (default: all)"
    )
    sub.add_argument("--option", action="append", default=[], metavar="FIELD=VALUE", help="another field of its spec")
    sub.add_argument("--out", type=Path, required=True, help="directory to write")

    for name, run, text in (
        ("encode", _encode, "turn bytes, or an image file, into ids"),
        ("decode", _decode, "turn ids back into the same bytes, or into a PNG file"),
    ):
        sub = command(
            name, run, f"{text}: little-endian uint16 ids, uint32 when the vocabulary exceeds 65,536", "tokjax.text"
        )
        sub.add_argument(
            "--tokenizer",
            required=True,
            metavar="DIR|NAME|FILE",
            help="fitted, built-in, a file to import, or the run of an image tokenizer",
        )
        sub.add_argument("--text", action="store_true", help="ids are decimal numbers, one per line")
        sub.add_argument("input", nargs="?", help="file to read (default: standard input)")
        sub.add_argument("output", nargs="?", help="file to write (default: standard output)")

    sub = command(
        "tokenize", _tokenize, "write the ids of a corpus, to train on; go on where --out stopped", "tokjax.text"
    )
    add_source(sub, default="pydocs")
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
    add_quiet(sub)

    sub = command(
        "export", _export, "write a bpe or compiled tokenizer as a Hugging Face tokenizer.json", "tokjax.text"
    )
    sub.add_argument("--tokenizer", required=True, metavar="DIR", help="a fitted tokenizer")
    sub.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def _fit(arguments: argparse.Namespace) -> int:
    from tokjax.core.files import check_vacant
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
    check_vacant(arguments.out)
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
    from tokjax.text.stream import encode_stream, write_ids

    images = _image_tokenizer(arguments.tokenizer)
    fitted = None if images else load_tokenizer(arguments.tokenizer)
    with reading(arguments.input) as reader, writing(arguments.output) as writer:
        if not arguments.text and writer.isatty():
            raise OutputError("Ids are binary; send them to a file or a pipe, or use --text.")
        if images:
            codes = images.encode_file(reader.read(), where=arguments.input or "standard input")
            write_ids(codes, writer, images.system.vocab_size, text=arguments.text)
        elif fitted:
            encode_stream(fitted, reader, writer, text=arguments.text)
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    import numpy as np

    from tokjax.text import load_tokenizer
    from tokjax.text.stream import decode_stream, read_ids

    images = _image_tokenizer(arguments.tokenizer)
    fitted = None if images else load_tokenizer(arguments.tokenizer)
    with reading(arguments.input) as reader, writing(arguments.output) as writer:
        if images:
            if writer.isatty():
                raise OutputError("An image is binary; send it to a file or a pipe.")
            blocks = read_ids(reader, images.system.vocab_size, text=arguments.text)
            writer.write(images.decode_file(np.concatenate([np.zeros(0, np.int64), *blocks])))
        elif fitted:
            decode_stream(fitted, reader, writer, text=arguments.text)
    return 0


def _image_tokenizer(place: str) -> Any:
    """Returns the image tokenizer of the run at `place`; None where there is none."""
    from tokjax.train.checkpoint import FOLDER

    if not (Path(place) / FOLDER).is_dir():
        return None
    from tokjax.experiment import images

    return images.load_image_tokenizer(place) if images.holds_image_tokenizer(place) else None


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
