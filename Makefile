# One command per intention, the same at the desk and in CI. `make` alone prints the list.

PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
# Without isolation the native part is compiled again only where it changed.
INSTALL := $(PIP) install --no-build-isolation -c constraints.txt
NATIVE := CMakeLists.txt $(wildcard csrc/* csrc/*/*)

# The first Python on PATH that is new enough; name another with PYTHON=...
PYTHON ?= $(shell for python in python3 python3.11 python3.12 python3.13 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
		&& echo $$python && break; done)

.DEFAULT_GOAL := help
.NOTPARALLEL: # two pips in one environment get in each other's way
.PHONY: arm sanitize help run test unit oracle e2e soak evidence bench check format wheel clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Set up, then serve the bundled model on PORT (8000)
	@exec $(BIN)/baltoro serve --port $(PORT) $(ARGS)

test: $(VENV)/.developer $(VENV)/.installed ## Set up for development, then run every test but the long ones
	$(BIN)/python -m pytest $(ARGS)

unit: $(VENV)/.developer $(VENV)/.installed ## Run the unit tests
	$(BIN)/python -m pytest tests/unit $(ARGS)

oracle: $(VENV)/.developer $(VENV)/.installed ## Compare with independent implementations
	$(BIN)/python -m pytest tests/oracle $(ARGS)

e2e: $(VENV)/.developer $(VENV)/.installed ## Run the end-to-end tests, the long ones too
	$(BIN)/python -m pytest tests/e2e -m "long or not long" --timeout 3600 $(ARGS)

soak: $(VENV)/.developer $(VENV)/.installed ## Let eight clients talk for two minutes, then 64 rude ones for ten; kill -9
	$(BIN)/python benchmarks/server/clients.py --seconds 120
	$(BIN)/python benchmarks/server/overload.py --seconds 600 $(ARGS)

evidence: $(VENV)/.developer $(VENV)/.installed ## Measure what the documents claim of the bundled model
	$(BIN)/baltoro eval skills --model tiny
	$(BIN)/python benchmarks/server/first_answer.py
	$(BIN)/python benchmarks/training/evidence.py $(ARGS)

bench: $(VENV)/.installed ## Measure speed beside the peers in BALTORO_PEERS; writes benchmarks/RESULTS.md
	$(BIN)/python benchmarks/speed/all.py $(ARGS)

check: $(VENV)/.developer ## Check format, lint, types and the direction of imports
	@failed=; for tool in "ruff format --check ." "ruff check ." lint-imports pyright; do \
		echo "== $$tool"; $(BIN)/$$tool || failed="$$failed '$$tool'"; done; \
		test -z "$$failed" || { echo "== not clean:$$failed"; exit 1; }

format: $(VENV)/.developer ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

sanitize: $(VENV)/.developer ## Run the kernel tests with address and undefined-behaviour sanitizers
	$(PIP) install --no-build-isolation --no-deps --target build/sanitized \
		--upgrade -C build-dir=build/sanitize -C cmake.define.BALTORO_SANITIZE=ON .
	cd build/sanitized && \
		LD_PRELOAD="$$($(firstword $(CXX)) -print-file-name=libasan.so):$$($(firstword $(CXX)) -print-file-name=libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1 \
		PYTHONPATH=.:$(CURDIR)/tests/unit/kernels $(CURDIR)/$(BIN)/python -m pytest \
		-p no:cacheprovider --rootdir $(CURDIR) -c $(CURDIR)/pyproject.toml \
		--import-mode=importlib $(CURDIR)/tests/unit/kernels $(ARGS)

arm: $(VENV)/.tools ## Build for ARM with Debian's cross compiler; run the kernel tests in an emulation
	tests/on_arm.sh $(ARGS)

wheel: $(VENV)/.tools ## Build the wheel into dist/
	$(PIP) wheel --no-build-isolation --no-deps -w dist .

clean: ## Remove what was built; the environment in .venv stays
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f $(VENV)/.installed $(VENV)/.developer
	find baltoro tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What follows makes the environment. A stamp is newer than all that it was made from.

$(BIN)/python:
	@$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		python=$(or $(PYTHON),python3); \
		echo "baltoro needs Python 3.11 or newer; $$python is: $$($$python --version 2>&1)."; \
		echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name one:"; \
		echo "make PYTHON=/path/to/python3.11"; exit 1; } >&2
	@command -v $(firstword $(CXX)) >/dev/null || { \
		echo "baltoro needs a C++17 compiler, and there is no '$(CXX)'."; \
		echo "Install one (Debian, Ubuntu: apt-get install g++) or name one: make CXX=clang++"; \
		exit 1; } >&2
	@echo "== 1/3 Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# setuptools: what comes as source among the developers' packages is built by it (its own wheel
# command since 70.1), and a new environment has an old one or none.
$(VENV)/.tools: pyproject.toml | $(BIN)/python
	@echo "== 2/3 Installing the tools that build the native part, and what comes as source"
	@$(BIN)/python -c 'import tomllib; build = tomllib.load(open("pyproject.toml", "rb")); \
		print(*build["build-system"]["requires"], "cmake", "ninja", \
		"setuptools>=70.1", sep="\n")' > $(VENV)/tools.txt
	@$(PIP) install -r $(VENV)/tools.txt
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(NATIVE) | $(VENV)/.tools
	@echo "== 3/3 Installing baltoro and building its native part"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.developer: pyproject.toml constraints.txt | $(VENV)/.tools
	@echo "== 3/3 Installing baltoro with all that its tests need"
	@$(INSTALL) -e '.[dev]'
	@touch $@
