"""The map of folders holds: imports point one way, systems stand apart, nothing heavy loads at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tokjax

ROOT = Path(__file__).parent.parent
# A folder may import from its own level or a lower one, and never from a higher one.
LEVELS = [
    {"core"},
    {"data", "text", "coding", "quantize", "embed", "nn", "kernels", "objectives", "measure", "sharding"},
    {"generate", "retrieve", "train"},
    {"systems"},
    {"experiment"},
    {"studies"},
    {"report", "cli", "__main__", "__init__", "configs"},
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
MODULES = sorted(p for p in (ROOT / "tokjax").rglob("*.py"))


def room(module: str) -> str:
    return module.removesuffix(".py").split("/")[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name.removeprefix("tokjax.") for name in found if name.startswith("tokjax.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    relative = str(path.relative_to(ROOT / "tokjax"))
    own = room(relative)
    for module in imports(path):
        other = room(module.replace(".", "/"))
        if other == own and own == "systems":
            assert module == relative.removesuffix(".py").replace("/", "."), f"{relative} imports the system {module}"
        assert LEVEL[other] <= LEVEL[own], f"{relative} ({own}) imports {module} ({other}), which stands above it"


def test_every_folder_has_a_level():
    folders = {p.name for p in (ROOT / "tokjax").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert folders <= set(LEVEL), folders - set(LEVEL)


def test_import_and_help_load_nothing_heavy():
    code = "import sys, tokjax, tokjax.cli; tokjax.cli._parser().format_help(); print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"jax", "numpy", "flax", "orbax", "tiktoken", "tokenizers", "matplotlib", "rich", "torch"}


def test_every_public_name_resolves():
    for name in tokjax.__all__:
        assert getattr(tokjax, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        tokjax.nonsense  # noqa: B018


def test_no_machine_paths_no_pickle():
    for path in [*MODULES, *(ROOT / "configs").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]:
        text = path.read_text()
        for word in ("pickle.load", "allow_pickle=True", "/root/", "/home/"):
            assert word not in text, f"{path} contains {word}"
