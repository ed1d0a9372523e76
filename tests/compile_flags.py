"""Prints the flags of XLA with which tests spend least on compiling: what they compute is small.

    XLA_FLAGS=$(python tests/compile_flags.py) pytest

Machine code is not optimised and, where this version of XLA still has them, its older and faster emitters make it.
"""

from importlib.metadata import version

_WITH_OLD_EMITTERS = (0, 10)

if __name__ == "__main__":
    flags = ["--xla_backend_optimization_level=0"]
    if tuple(map(int, version("jaxlib").split(".")[:2])) <= _WITH_OLD_EMITTERS:
        flags.append("--xla_cpu_use_fusion_emitters=false")
    print(" ".join(flags))
