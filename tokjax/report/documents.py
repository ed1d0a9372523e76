"""Writes the generated parts of the documentation from registries and result files, or checks that they are current.

    python -m tokjax.report.documents [--check]
    python -m tokjax.report.documents --demo DIR     take a finished comparison as the README's
"""

import argparse
import json
import re
import sys
from pathlib import Path

from tokjax import report
from tokjax.report.papers import papers_markdown

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DEMO = RESULTS / "compare_demo.json"


def _fill(text: str, name: str, content: str) -> str:
    """Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->`."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"no <!-- {name} --> ... <!-- /{name} --> to fill")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def _benchmark_table() -> str:
    """Every row of every benchmark that names a peer, as one table."""
    lines = ["| benchmark | what | peer | ratio | environment |", "|---|---|---|---|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        stored = json.loads(path.read_text())
        for headline in stored.get("headlines", []):
            where = stored["environment"]
            device = f"{where.get('device', where.get('cpu', '?'))}, jax {where['versions'].get('jax', '?')}, {where['date']}"
            lines.append(
                f"| `benchmarks/{path.stem}.py` | {headline['what']} | {headline['peer']} | {headline['ratio']:.2f}x | {device} |"
            )
    return "\n".join(lines) + "\n"


def documents() -> dict[Path, str]:
    """Returns path -> what it must hold."""
    readme = (ROOT / "README.md").read_text()
    if DEMO.exists():
        results = json.loads(DEMO.read_text())
        where = results["environment"]
        caption = (
            f"\n{report.headline(results)} Measured by `make demo` on {where['cpus']} CPU cores, Python {where['python']}, "
            f"jax {where['versions']['jax']}, {where['date']}; `benchmarks/results/compare_demo.json` holds every row.\n"
        )
        readme = _fill(readme, "demo", report.markdown_table(results) + caption)
    readme = _fill(readme, "benchmarks", _benchmark_table())
    return {ROOT / "README.md": readme, ROOT / "docs" / "papers.md": papers_markdown()}


def main() -> int:
    """Writes, or with --check compares; 1 when something is stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a document is stale")
    parser.add_argument("--demo", type=Path, help="directory of a finished comparison")
    arguments = parser.parse_args()
    if arguments.demo:
        DEMO.write_text((arguments.demo / "results.json").read_text())
        for name in ("bits_per_byte_flops", "bits_per_byte_position"):
            (ROOT / "docs" / "images" / f"demo_{name}.png").write_bytes((arguments.demo / f"{name}.png").read_bytes())
    stale = [path for path, text in documents().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not arguments.check:
            path.write_text(documents()[path])
        print(f"{path.relative_to(ROOT)}: {'stale; run make docs' if arguments.check else 'written'}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
