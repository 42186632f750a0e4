# A fresh machine needs Python >= 3.11 and a C compiler; everything else goes into $(VENV).
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= dist
SITE   ?= docs/_build/html
ARGS   ?=

BIN     := $(abspath $(VENV))/bin
PIP     := $(BIN)/python -m pip install -qq --disable-pip-version-check
NEEDS    = $(BIN)/python tools/requirements.py
KERNELS := $(wildcard npdl/_ext/*.pyx npdl/_ext/*.pxd npdl/_ext/*.h)
# Runs a command that has much to say, and lets it say so only if it fails.
HUSHED   = > $(VENV)/log 2>&1 || { cat $(VENV)/log; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow verify bench docs lint format build clean
.PHONY: asan ubsan tsan clang-test fuzz wheels aarch64-test reproducible release-check

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "make %-13s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/built ## Make the environment and compile the kernels

demo: install ## Train a CNN on handwritten digits; the pictures go to demo/
	@$(BIN)/python -m npdl demo $(ARGS)

test: install ## Run the tests (ARGS="tests/layers -x")
	@$(BIN)/python -m pytest $(ARGS)

test-slow: install ## Run the tests that take minutes: thousands of kills, damaged files, real data
	@$(BIN)/python -m pytest -m slow $(ARGS)

verify: install ## Compare each Cython kernel with its NumPy twin, values and times
	@$(BIN)/python -m npdl verify

bench: install ## Run the benchmarks (ARGS="--help" lists the options)
	@$(BIN)/python -m benchmarks $(or $(ARGS),kernels)

docs: $(VENV)/docs ## Build the site into docs/_build/html; nothing is compiled for it
	@$(BIN)/python -m sphinx -b html -E -W --keep-going -q docs $(SITE)
	@echo $(SITE)/index.html

lint: $(VENV)/lint ## Check style, types and spelling
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@PATH="$(BIN):$$PATH" cython-lint npdl
	@$(BIN)/mypy
	@$(BIN)/codespell

format: $(VENV)/lint ## Fix the style, where that can be automated
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# All files in an archive are as old as the last commit.
build: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2> /dev/null || echo 1700000000)
build: $(VENV)/dist ## Build sdist and wheel into dist/
	@rm -rf $(OUT)
	@$(BIN)/python -m build --outdir $(OUT) $(HUSHED)
	@ls -l $(OUT)

asan ubsan: install ## Run the tests on kernels built with AddressSanitizer, UndefinedBehaviorSanitizer
	@$(BIN)/python tools/variant.py $@ $(ARGS)

clang-test: install ## Run the tests on kernels built by clang
	@$(BIN)/python tools/variant.py clang $(ARGS)

tsan: ## Run the pool of threads under ThreadSanitizer
	@mkdir -p build
	@gcc -std=c11 -D_GNU_SOURCE -O1 -g -Wall -Wextra -Werror -fsanitize=thread -Inpdl/_ext \
		tests/threads_tsan.c -o build/threads_tsan -lpthread
	@# It knows no memory layout as random as that of newer kernels of Linux.
	@TSAN_OPTIONS=die_after_fork=0 setarch --addr-no-randomize build/threads_tsan $(ARGS)

fuzz: install ## Try drawn arguments on kernels and layers, 60 s for each test (NPDL_FUZZ_SECONDS=600)
	@NPDL_FUZZ_SECONDS=$(or $(NPDL_FUZZ_SECONDS),60) $(BIN)/python -m pytest tests/test_fuzz.py $(ARGS)

wheels: $(VENV)/wheels ## Build, audit and test wheel and sdist as for a release (ARGS="--help")
	@$(BIN)/python tools/wheels.py --out $(OUT) $(ARGS)

aarch64-test: $(VENV)/wheels ## Compare the bits of a wheel for aarch64, under qemu, with those in tests/golden
	@$(BIN)/python tools/wheels.py --out $(OUT) --arch aarch64 --tests kernels/test_same_bits.py $(ARGS)

reproducible: $(VENV)/release ## Build the last commit twice, and compare sdist and wheel byte by byte
	@$(BIN)/python tools/reproducible.py

release-check: $(VENV)/release ## Check version, changelog, sdist, cibuildwheel (ARGS=--final)
	@$(BIN)/python tools/release_check.py $(ARGS)
	@for os in linux macos windows pyodide; do $(BIN)/cibuildwheel --platform $$os --print-build-identifiers; done
	@test ! -e .git || PATH="$(BIN):$$PATH" check-manifest

clean: ## Remove what was built, and the environment
	rm -rf $(VENV) build dist demo docs/_build npdl.egg-info npdl/_ext/*.so npdl/_ext/*.pyd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each of these files says that something was done, and is older than what it depends on if it has
# to be done again.

$(VENV)/made:
	@echo "making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "npdl needs Python 3.11")'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/needs: pyproject.toml | $(VENV)/made
	@$(NEEDS) build run test plot | $(PIP) -r /dev/stdin
	@touch $@

# Like `pip install --editable .`, but a kernel that did not change is not compiled again.
$(VENV)/built: $(KERNELS) setup.py $(VENV)/needs
	@echo "compiling the kernels (all of them take a minute or so)"
	@$(BIN)/python setup.py --quiet build_ext --inplace $(HUSHED)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | \
		{ read -r packages; echo "$(CURDIR)" > "$$packages/npdl.pth"; }
	@touch $@

$(VENV)/lint: pyproject.toml | $(VENV)/made
	@$(NEEDS) run lint | $(PIP) -r /dev/stdin
	@touch $@

$(VENV)/docs: pyproject.toml | $(VENV)/made
	@$(NEEDS) run docs | $(PIP) -r /dev/stdin
	@touch $@

$(VENV)/release: pyproject.toml | $(VENV)/made
	@$(NEEDS) build release | $(PIP) -r /dev/stdin
	@touch $@

$(VENV)/wheels: pyproject.toml $(VENV)/release
	@$(NEEDS) wheels | $(PIP) -r /dev/stdin
	@touch $@

$(VENV)/dist: | $(VENV)/made
	@$(PIP) build
	@touch $@
