"""Start-up time: `import tokjax` and `tokjax --help`, against Python's own start and the time JAX needs to import.

python -m benchmarks.startup
"""

import subprocess
import sys
import time

from benchmarks.common import write

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import tokjax": ["-c", "import tokjax"],
    "tokjax --help": ["-m", "tokjax", "--help"],
    "import jax": ["-c", "import jax"],
}
REPEATS = 7


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measures the commands in turn, several times, and keeps each one's best."""
    best = {name: float("inf") for name in COMMANDS}
    for _ in range(REPEATS):
        for name, arguments in COMMANDS.items():
            best[name] = min(best[name], seconds(arguments))
    rows = [
        {"command": name, "seconds": value, "over_import_jax": value / best["import jax"]}
        for name, value in best.items()
    ]
    for row in rows:
        print(f"{row['command']:16} {row['seconds']:.3f} s")
    write("startup", rows)


if __name__ == "__main__":
    main()
