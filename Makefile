# Every target makes what it needs: a fresh machine with Python 3.11+, git and make is enough.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CODE   := exporter tests grafana docs
# The target that `make check` runs for the tests. CI takes `coverage`: the same tests, and their coverage.
TESTS  ?= test
FUZZ_TARGETS := $(patsubst tests/fuzz/fuzz_%.py,%,$(sort $(wildcard tests/fuzz/fuzz_*.py)))
# A test that hangs fails after so many seconds: its process prints where each thread stood, and ends. The other tests go on.
HANGS   = -o faulthandler_exit_on_timeout=true -o faulthandler_timeout
FUZZ   := -verbosity=0 -print_final_stats=1 -artifact_prefix=$(CURDIR)/build/fuzz

.DEFAULT_GOAL := help
.PHONY: help demo run test coverage check format lint types promtool test-real test-servers bench fuzz grafana docs audit sbom image build release clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.real: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,real]'
	@touch $@

demo: $(VENV)/.runtime ## run the daemon against simulated inference servers: http://127.0.0.1:9937/
	$(BIN)/llm-probe-exporter demo

run: $(VENV)/.runtime ## run the daemon: it finds the inference servers of this machine
	$(BIN)/llm-probe-exporter serve

# Some machines set this. Without compiled files each worker and each process of a test compiles all that it imports.
test coverage: export PYTHONDONTWRITEBYTECODE =

test: $(VENV)/.dev ## run the tests that need no service
	$(BIN)/python -m pytest -q -m "not real and not servers" -n auto --dist worksteal $(HANGS)=300

coverage: $(VENV)/.dev ## run the same tests, and show the lines and branches of the exporter that no test reaches
	$(BIN)/python -m pytest -q -m "not real and not servers" -n auto --dist worksteal $(HANGS)=300 --cov --cov-report=term

check: $(VENV)/.dev lint types grafana-check docs-check promtool $(TESTS) ## check format, lint, types, generated files and alert rules, and run the tests

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/yamllint --strict .

types: $(VENV)/.dev
	$(BIN)/mypy

grafana: $(VENV)/.dev ## write the dashboards, rules and runbook from their source
	$(BIN)/python -m grafana.build

docs: $(VENV)/.dev ## write the tables of the documentation: metrics, backends, caches
	$(BIN)/python -m docs.build

.PHONY: docs-check
docs-check: $(VENV)/.dev
	$(BIN)/python -m docs.build --check

.PHONY: grafana-check
grafana-check: $(VENV)/.dev
	$(BIN)/python -m grafana.build --check

promtool: ## check and test the alert rules; needs promtool
	@if command -v promtool >/dev/null; then \
		promtool check rules deploy/prometheus/rules/*.yml && promtool test rules deploy/prometheus/tests/*.yml; \
	else echo "promtool is not installed: the rules were not checked"; fi

test-real: $(VENV)/.real ## run the tests against real parts: llama-server, Prometheus, Docker, Podman, systemd, Chromium
	$(BIN)/python -m pytest -q -m real $(HANGS)=1800

test-servers: $(VENV)/.dev ## measure real vLLM, transformers serve and LiteLLM, each installed in an environment of its own: 5.4 GB, not in CI
	$(BIN)/python -m pytest -q -m servers -rA -n 0

$(VENV)/.fuzz: $(VENV)/.dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,fuzz]' || \
		echo "atheris can't be installed here: inputs are mutated at random, without following coverage"
	@touch $@

fuzz: $(VENV)/.fuzz ## fuzz every reader of input that others write, for two minutes; a find is written to build/fuzz
	@mkdir -p build/fuzz
	@for target in $(FUZZ_TARGETS); do \
		$(BIN)/python -m tests.fuzz.fuzz_$$target -max_total_time=$$((120 / $(words $(FUZZ_TARGETS)))) $(FUZZ)/$$target- || exit 1; \
	done

bench: $(VENV)/.dev ## measure the exporter (an hour), and write the figures into docs/accuracy.md and README.md
	$(BIN)/python tests/bench/report.py

image: ## build the container image; for amd64 and arm64: docker buildx build --platform linux/amd64,linux/arm64 .
	docker build --tag llm-probe-exporter:latest --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' exporter/__init__.py)" \
		--build-arg REVISION="$$(git rev-parse HEAD 2>/dev/null || echo unknown)" .

# A package index may lack these tools, which is no fault of this tree. Then the target says what it could not do, and does not fail.
$(VENV)/.supply: $(VENV)/bin/python pyproject.toml
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[supply]'; then touch $@; \
	else echo "the tools for audit and sbom can't be installed from this package index"; fi

audit: $(VENV)/.supply ## look for known vulnerabilities in the packages of the image; without a network it says that it did not look
	@[ -e $(VENV)/.supply ] || { echo "NOT audited"; exit 0; }; \
	said=$$(mktemp); trap 'rm -f "$$said"' EXIT; \
	for lock in deploy/requirements.lock deploy/requirements-build.lock; do \
		if $(BIN)/pip-audit --progress-spinner=off --require-hashes --disable-pip --requirement $$lock >"$$said" 2>&1; then \
			if grep -q 'could not be audited' "$$said"; then cat "$$said"; echo "$$lock: those in the list were NOT audited"; \
			else echo "$$lock: no known vulnerability"; fi; \
		elif grep -qE 'Found [0-9]+ known vulnerabilit' "$$said"; then cat "$$said"; exit 1; \
		else cat "$$said"; echo "$$lock was NOT audited: its source of vulnerabilities did not answer"; fi; \
	done

sbom: $(VENV)/.supply ## write dist/sbom.cdx.json: every locked dependency, as CycloneDX
	@[ -e $(VENV)/.supply ] || { echo "no SBOM was written"; exit 0; }; mkdir -p dist && \
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json \
		deploy/requirements.lock && echo "dist/sbom.cdx.json: every locked dependency"

build: $(VENV)/.dev ## build the wheel and the source package
	$(BIN)/python -m build

release: $(VENV)/.dev ## build the packages, check them, install the wheel in an environment of its own, and probe the demo with it
	$(BIN)/python tests/release.py

clean: ## remove the environment, the built packages and the caches of the tools
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
