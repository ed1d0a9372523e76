"""The table of papers, from the registries, and what the studies found of their claims."""

from collections.abc import Iterator, Mapping

from tokjax.core import registry
from tokjax.report.study import LEGEND, markdown_claims, measured
from tokjax.studies.result import Result


def _rows() -> list[tuple[str, ...]]:
    rows: dict[str, tuple[str, ...]] = {}
    for kind in registry.ALL:
        for entry in kind.entries():
            for paper in entry.papers:
                title, authors, year, url, uses = rows.get(
                    paper.url, (paper.title, paper.authors, str(paper.year), paper.url, "")
                )
                use = f"{kind.kind} `{entry.name}`"
                rows[paper.url] = (title, authors, year, url, f"{uses}, {use}" if uses else use)
    return sorted(rows.values(), key=lambda row: (row[2], row[0]))


def papers_text() -> str:
    """The papers, one per line, for a terminal."""
    return "\n".join(f"{year}  {title} ({authors})\n      {url}  {uses}" for title, authors, year, url, uses in _rows())


def papers_markdown(results: Mapping[str, Result], pages: Mapping[str, str]) -> str:
    """docs/papers.md.

    Args:
      results: study -> its stored result.
      pages: study -> its page in docs/.
    """
    lines = [
        "# Papers",
        "",
        "Generated from the registries by `make docs`; do not edit.",
        "",
        "| paper | authors | year | in tokjax as |",
        "|---|---|---|---|",
    ]
    lines += [f"| [{title}]({url}) | {authors} | {year} | {uses} |" for title, authors, year, url, uses in _rows()]
    lines += ["", "## Studies", "", LEGEND, ""]
    for entry in registry.studies.entries():
        lines += [f"### `{entry.name}`", "", *_study(entry, results.get(entry.name), pages.get(entry.name)), ""]
    for kind in registry.ALL:
        if kind is not registry.studies:
            lines += [f"## {kind.kind.capitalize()}s", ""]
            lines += [*(f"- `{entry.name}`: {entry.summary}." for entry in kind.entries()), ""]
    return "\n".join(lines)


def _study(entry: registry.Entry, result: Result | None, page: str | None) -> Iterator[str]:
    more = f" More on [its page]({page})." if page else ""
    if result is None:
        yield f"{entry.summary}. No stored result yet.{more}"
        return
    yield f"{entry.summary}. {measured(result)}; {stored_rows(entry.name)}.{more}"
    yield ""
    yield markdown_claims(result.claims).rstrip("\n")


def stored_rows(study: str) -> str:
    """Says, in a page of docs/, where every row of a study is."""
    name = f"study_{study}.json"
    return f"every row is in [`{name}`](../benchmarks/results/{name})"
