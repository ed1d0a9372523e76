# `make demo` and `make test` need only Python >= 3.11, pip and make; both create the environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
comma = ,
INSTALLED = $(VENV)/installed-$(subst $(comma),-,$(EXTRAS))
JOBS ?= 2
EXTRAS ?= dev
NEWEST ?= python3.12
export JAX_PLATFORMS ?= cpu

.PHONY: help env demo test test-slow test-long kernels lint docs benchmarks clean

help:
	@echo 'make demo        install, then compare bytes, BPE and words on this Python'\''s own documentation (demo/report.html)'
	@echo 'make test        install, then run the tests'
	@echo 'make test-slow   run the tests marked slow'
	@echo 'make test-long   run whole studies at their smallest scale, minutes each'
	@echo 'make kernels     compile the kernels for TPUs and H100s that are not here, on $(NEWEST) (2 GB of compilers)'
	@echo 'make lint        formatter, linter, types, generated documentation up to date'
	@echo 'make docs        write the generated parts of docs/ and README.md'
	@echo 'make benchmarks  run every benchmark (needs the peers: pip install .[bench])'

env: $(INSTALLED)

$(INSTALLED): setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokjax needs Python 3.11 or newer; call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

demo: env
	$(BIN)/tokjax compare --source pydocs --systems bytes,bpe:2048,hat --budget 4e11flops --scale smoke --seeds 3 --out demo

QUICKLY = XLA_FLAGS="$(XLA_FLAGS) $$($(BIN)/python tests/compile_flags.py)"

test: env
	$(QUICKLY) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'not slow and not long' $(TESTS)

test-slow: env
	$(QUICKLY) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

test-long: env
	$(QUICKLY) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m long

kernels:
	$(MAKE) env VENV=.venv-newest PYTHON=$(NEWEST) EXTRAS=dev,compile,tokamax
	.venv-newest/bin/python -c 'import sys; from tokjax.sharding.topologies import why_not; sys.exit(" ".join(filter(None, map(why_not, ("v5e:2x2", "h100:1")))) or None)'
	.venv-newest/bin/python -m pytest -n $(JOBS) tests/kernels tests/nn/test_attention.py

lint: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy tokjax
	$(BIN)/python docs/generate.py --check

docs: env
	$(BIN)/python docs/generate.py

benchmarks: env
	for script in splitter bpe compiled neural_coding codec startup train_step quantizers kernels data_wait scaling; do $(BIN)/python -m benchmarks.$$script || exit 1; done

clean:
	rm -rf .venv .venv-newest demo build dist *.egg-info
