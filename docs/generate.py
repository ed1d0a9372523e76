"""Writes the generated parts of the documentation from registries and result files, or checks that they are current.

python docs/generate.py [--check]
python docs/generate.py --demo DIR     take a finished comparison as the README's
python docs/generate.py --study NAME DIR [DIR ...]     take a finished study, judged anew, as its page's; one that was
                                                       run in parts, such as a language each, from all its directories
python docs/generate.py --pictures     draw the pictures that no stored result holds
"""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokjax import report
from tokjax.core.registry import studies
from tokjax.report.papers import papers_markdown, stored_rows
from tokjax.report.study import LEGEND, machine, markdown_claims, markdown_tables, measured
from tokjax.studies import module_of
from tokjax.studies.result import Result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
DEMO = RESULTS / "compare_demo.json"
_CASE = ("recipe", "topology", "mesh", "batch", "accumulate_steps")
_PLAN_MEMORY = (
    *_CASE, "state_gib", "compiled_state_gib", "temporary_gib", "compiled_temporary_gib", "fits", "compiled_fits",
)  # fmt: skip
_PLAN_SPEED = (*_CASE, "step_s", "mfu", "traffic_gib", "compiled_traffic_gib", "compiled_traffic")


def _stored(study: str) -> Path:
    return RESULTS / f"study_{study}.json"


def _fill(text: str, name: str, content: str) -> str:
    """Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {name} --> ... <!-- /{name} --> to fill")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def _pick(rows: list[dict[str, Any]], **fields: str) -> dict[str, Any]:
    """The first row whose fields start with these values."""
    return next(row for row in rows if all(row.get(key, "").startswith(value) for key, value in fields.items()))


def _claims(results: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, float]]:
    """Yields (benchmark, what, against what, ratio) for every stored result."""
    for corpus in ("prose", "code") if "splitter" in results else ():
        rows = results["splitter"]["rows"]
        for ours, what in (("tokjax split", "as a list"), ("tokjax piece_lengths, cap 100", "as lengths")):
            ratio = _pick(rows, corpus=corpus, peer=ours)["ratio"]
            yield "splitter", f"words of {corpus}, {what}", "`regex` word boundaries", ratio
            rust = _pick(rows, corpus=corpus, peer="hat-splitter")
            if "ratio" in rust:
                yield "splitter", f"words of {corpus}, {what}", f"`{rust['peer']}` (Rust)", ratio / rust["ratio"]
    for text in ("prose", "source code") if "bpe" in results else ():
        row = _pick(results["bpe"]["rows"], text=text, engine="tokjax")
        yield "bpe", f"BPE encode of {text}", "calling tiktoken directly", row["cpu_speed_over_tiktoken"]
    for text in ("prose", "source code") if "compiled" in results else ():
        row = _pick(results["compiled"]["rows"], text=text, measure="compiled encode")
        speed = row["megabytes_per_second"]
        what = f"`compiled` encode of {text}, {row['vocabulary']:,} strings ({speed:.0f} MB/s)"
        peer = _pick(results["compiled"]["rows"], text=text, measure="tiktoken encode")
        yield "compiled", what, f"tiktoken with {peer['vocabulary']:,} ids", row["cpu_speed_over_tiktoken"]
    if "neural_coding" in results:
        for row in results["neural_coding"]["rows"]:
            if row["what"].startswith(("step", "encode", "decode")):
                what = f"neural coding: {row['what']}, {row['parameters'] / 1e6:.1f}M parameters, {row['rows']} rows"
                yield "neural_coding", what, "its plain forward pass", row["speed_over_forward"]
    for name in ("bytes", "words", "bpe") if "codec" in results else ():
        row = _pick(results["codec"]["rows"], tokenizer=name, measure="memory")
        speed = _pick(results["codec"]["rows"], tokenizer=name, measure="throughput")
        what = (
            f"`encode` of 1 GB with `{name}`: {row['peak_megabytes']:.0f} MB at its peak "
            f"(encodes {speed['encode_megabytes_per_second']:.0f} MB/s, "
            f"decodes {speed['decode_megabytes_per_second']:.0f} MB/s)"
        )
        yield "codec", what, "the peak of 1 MB", row["peak_megabytes"] / row["peak_megabytes_for_1_megabyte"]
    if "startup" in results:
        row = _pick(results["startup"]["rows"], command="tokjax --help")
        yield "startup", f"time of `tokjax --help` ({row['seconds']:.2f} s)", "`import jax`", row["over_import_jax"]
    if "train_step" in results:
        row = _pick(results["train_step"]["rows"], name="tokjax")
        what = "training speed of `lm`, 6 layers of 256, 512 bytes"
        yield "train_step", what, "PyTorch, eager", row["wall_vs_eager"]
        if "wall_vs_compiled" in row:
            yield "train_step", what, "PyTorch, `torch.compile`", row["wall_vs_compiled"]
    for row in results["quantizers"]["rows"] if "quantizers" in results else ():
        if "speed_of_tokjax" in row and row["measure"] != "search":
            what = f"{row['measure']}, {row['vectors']:,} vectors of {row['width']}, {row['codes']:,} codes"
            threads = f"{row['threads']} thread" + "s" * (row["threads"] > 1)
            yield "quantizers", f"speed of one {what}, {threads}", row["name"], row["speed_of_tokjax"]
            yield "quantizers", f"peak memory of one {what}", row["name"], row["memory_of_tokjax"]
        elif row["name"].startswith("torch"):
            what = f"speed of nearest-code search, {row['vectors']:,} vectors of {row['width']}, {row['codes']:,} codes"
            yield "quantizers", what, "`torch.cdist` and `argmin`", row["speed_of_tokjax"]


def _benchmark_table() -> str:
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    lines = ["| benchmark | what | against | ratio | measured on |", "|---|---|---|---|---|"]
    for name, what, peer, ratio in _claims(results):
        where = results[name]["environment"]
        device = f"{where['cores']} cores, {where['cpu']}, jax {where['versions']['jax']}, {where['date']}"
        lines.append(f"| [`{name}`](benchmarks/{name}.py) | {what} | {peer} | {ratio:.2f}x | {device} |")
    return "\n".join(lines) + "\n"


def _study(name: str, result: Result | None) -> str:
    """The claims of a stored study and its tables, or a line that says that there is none."""
    if result is None:
        return "No stored result yet.\n"
    tables = markdown_tables(result.rows, module_of(name).TABLES)
    caption = f"Means of {measured(result)}, with 95% intervals; {stored_rows(name)}."
    return f"{markdown_claims(result.claims)}\n{LEGEND}\n\n{tables}\n{caption}\n"


def _windows_picture() -> bytes:
    """The picture of docs/compressed_text.md, as PNG: one paragraph cut by four tokenizers fitted to `pydocs`."""
    from tokjax.coding.entropy import fit_entropy
    from tokjax.data import load_source
    from tokjax.report.plots import render
    from tokjax.report.windows import windows_figure
    from tokjax.text import fit_tokenizer

    source = load_source("pydocs")
    train, text = source.split("train"), next(raw for raw in source.split("test") if len(raw) >= 400)[:320]
    fitted = {
        "equal_info, 16-bit windows (mode=delay)": fit_tokenizer("equal_info", train),
        "equal_info, every string that fits (mode=ids)": fit_tokenizer("equal_info", train, mode="ids"),
        "compiled, 65,536 strings": fit_tokenizer("compiled", train, vocab_size=65_536),
        "bpe, 8,192": fit_tokenizer("bpe", train, vocab_size=8192),
    }
    units = {title: tokenizer.units(tokenizer.encode(text)).tolist() for title, tokenizer in fitted.items()}
    return render(windows_figure(text, units, fit_entropy("ngram", train)), "png")


def _joined(name: str, directories: Sequence[str]) -> Result:
    """The rows of a study's parts as one result, judged anew.

    Raises:
      ValueError: there is no part, or the parts come from different versions or machines.
    """
    parts = [Result.read(Path(directory, "result.json")) for directory in directories]
    where = [{key: value for key, value in part.environment.items() if key != "date"} for part in parts]
    if not parts or any(environment != where[0] for environment in where):
        raise ValueError(f"--study {name}: give the parts of one study, run with the same versions on one machine.")
    rows = [row for part in parts for row in part.rows]
    return Result(rows, module_of(name).claims(rows), where[0] | {"date": max(p.environment["date"] for p in parts)})


def documents() -> dict[Path, str]:
    """Returns path -> what it must hold."""
    readme = (ROOT / "README.md").read_text()
    if DEMO.exists():
        results = json.loads(DEMO.read_text())
        caption = (
            f"\n{report.headline(results)} Measured by `make demo` on {machine(results['environment'])}; "
            "every row is in [`compare_demo.json`](benchmarks/results/compare_demo.json).\n"
        )
        readme = _fill(readme, "demo", report.markdown_table(results) + caption)
    readme = _fill(readme, "benchmarks", _benchmark_table())
    found = {name: Result.read(_stored(name)) for name in studies if _stored(name).exists()}
    texts = {path: path.read_text() for path in (ROOT / "docs").glob("*.md")}
    pages = {name: path for name in studies for path, text in texts.items() if f"<!-- {name} -->" in text}
    for name, path in pages.items():
        texts[path] = _fill(texts[path], name, _study(name, found.get(name)))
    kernels = ROOT / "docs" / "kernels.md"
    for name in ("programs", "expected_kernels", "without_kernels"):
        texts[kernels] = _fill(texts[kernels], name, _rows_table(name))
    for name, field in (("kernels", "ms"), ("empty_slots", "slots_left_empty")):
        texts[kernels] = _fill(texts[kernels], name, _rows_table("kernels", field))
    pods = ROOT / "docs" / "pods.md"
    texts[pods] = _fill(texts[pods], "plan_memory", _rows_table("plan", columns=_PLAN_MEMORY))
    texts[pods] = _fill(texts[pods], "plan_speed", _rows_table("plan", columns=_PLAN_SPEED))
    texts[pods] = _fill(texts[pods], "scaling_traffic", _rows_table("scaling", "received_mb"))
    texts[pods] = _fill(texts[pods], "scaling_speed", _rows_table("scaling", "of_one_process"))
    data = ROOT / "docs" / "data.md"
    texts[data] = _fill(texts[data], "data_wait", _rows_table("data_wait"))
    ciphers = ROOT / "docs" / "lexinvariant.md"
    texts[ciphers] = _fill(texts[ciphers], "decipher", _rows_table("decipher"))
    return texts | {
        ROOT / "README.md": readme,
        ROOT / "docs" / "papers.md": papers_markdown(found, {name: path.name for name, path in pages.items()}),
    }


def _rows_table(benchmark: str, having: str | None = None, *, columns: Sequence[str] = ()) -> str:
    """The rows of a stored benchmark, those that have a field, as a table, and where it was made."""
    stored = json.loads((RESULTS / f"{benchmark}.json").read_text())
    rows = [row for row in stored["rows"] if having is None or having in row]
    columns = columns or list(rows[0])
    head = [
        key.replace("_", " ").replace(" gib", ", GiB").replace(" mib", ", MiB").replace(" mb", ", MB")
        for key in columns
    ]
    lines = [head, ["---"] * len(head), *([_cell(row.get(key, "")) for key in columns] for row in rows)]
    made = f"jax {stored['environment']['versions']['jax']}, {stored['environment']['date']}"
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return table + f"\nEvery row is in [`{benchmark}.json`](../benchmarks/results/{benchmark}.json): {made}.\n"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(part)}" for key, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Writes, or with --check compares; 1 when something is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a document is stale")
    parser.add_argument("--demo", type=Path, help="directory of a finished comparison")
    parser.add_argument("--study", nargs="+", metavar=("NAME", "DIR"), help="a study and where its parts finished")
    parser.add_argument("--pictures", action="store_true", help="draw the pictures that no stored result holds")
    arguments = parser.parse_args()
    if arguments.pictures:
        (IMAGES / "windows.png").write_bytes(_windows_picture())
    if arguments.study:
        name, *directories = arguments.study
        _stored(name).write_text(json.dumps(dataclasses.asdict(_joined(name, directories))) + "\n")
    if arguments.demo:
        DEMO.write_text((arguments.demo / "results.json").read_text())
        for name in ("bits_per_byte_flops", "bits_per_byte_position"):
            IMAGES.mkdir(exist_ok=True)
            (IMAGES / f"demo_{name}.png").write_bytes((arguments.demo / f"{name}.png").read_bytes())
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not arguments.check:
            path.write_text(documents()[path])
        print(f"{path.relative_to(ROOT)}: {'stale; run make docs' if arguments.check else 'written'}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
