"""The table of papers, from the registries."""

from tokjax.core import registry


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


def papers_markdown() -> str:
    """docs/papers.md."""
    lines = [
        "# Papers",
        "",
        "Generated from the registries by `make docs`; do not edit.",
        "",
        "| paper | authors | year | in tokjax as |",
        "|---|---|---|---|",
    ]
    lines += [f"| [{title}]({url}) | {authors} | {year} | {uses} |" for title, authors, year, url, uses in _rows()]
    for kind in registry.ALL:
        lines += ["", f"## {kind.kind.capitalize()}s", ""]
        lines += [f"- `{entry.name}`: {entry.summary}." for entry in kind.entries()]
    return "\n".join(lines) + "\n"
