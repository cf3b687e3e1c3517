# `make demo` and `make test` need Python 3.11 or newer and make; they set up everything else in .venv.

TORCH ?= torch==2.13.0
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2

RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SOURCES := qcompiler passes backends tests benchmarks .ci
TOOLS := gcc g++ cmake aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc qemu-aarch64-static qemu-arm-static
TOOL_PACKAGES := gcc g++ libc6-dev cmake gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
	gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user-static

.DEFAULT_GOAL := help
.PHONY: help demo test lint wheel docs ci browser compilers clean

help:
	@echo "make demo    compile two small models for ONNX Runtime, run them on real data, print the report"
	@echo "make test    the whole test suite"
	@echo "make lint    ruff, pyright and the floors of the house"
	@echo "make wheel   build the wheel and try it outside the checkout"
	@echo "make docs    build the documentation into build/site"
	@echo "make ci      what CI runs: test, lint, wheel, docs"
	@echo "make clean   remove what the above wrote"
	@echo "variables: PYTHON=python3.12  VENV=.venv  TORCH='torch==2.13.0 --index-url ...'  WORKERS=2"

demo: $(READY)-core
	$(RUN) -m benchmarks.demo

test: $(READY)-test browser compilers
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY)-test $(READY)-dev
	$(RUN) -m ruff check $(SOURCES)
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports

wheel: $(READY)-dev
	$(RUN) .ci/wheel.py

docs: $(READY)-docs
	$(VENV)/bin/mkdocs build --quiet --site-dir build/site

ci: test lint wheel docs

# One stamp per set of packages. Torch comes first, so that whoever needs another build of it says so in TORCH.
$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY)-torch: Makefile | $(RUN)
	$(RUN) -m pip install --quiet $(TORCH)
	@touch $@

$(READY)-core: $(READY)-torch pyproject.toml
	$(RUN) -m pip install --quiet --editable .
	@touch $@

$(READY)-test $(READY)-dev $(READY)-docs: $(READY)-%: $(READY)-core
	$(RUN) -m pip install --quiet --editable ".[$*]"
	@touch $@

# The HTML report is tested in a real browser; without one those tests skip and say so.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
			&& apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } \
		|| echo "no Chromium and no right to install one: the tests of the HTML report will be skipped"

# Generated C is compiled here and, for ARM, run under an emulator, and CUDA kernels run as C++; tests that lack a
# compiler skip and say so.
compilers:
	@( for tool in $(TOOLS); do command -v $$tool >/dev/null || exit 1; done ) \
		|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
			&& apt-get update -qq && apt-get install -y -qq --no-install-recommends $(TOOL_PACKAGES); } \
		|| echo "no C compilers for x86 and ARM and no right to install them: tests of generated code will be skipped"

clean:
	rm -rf $(VENV) build dist demo-artifact *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
