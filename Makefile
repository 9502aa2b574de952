# Everything a contributor types. `make help` lists it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
WORKERS ?= 4
# Files in the order of tests/plugins/order.py; xdist's own would begin with those of many short tests.
PARALLEL = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests start the program a thousand times: where this is set, it would be compiled each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | awk -F'\t' '{printf "  %-14s %s\n", $$1, $$2}'

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[demo]' --group dev
	touch $@

$(VENV)/demo-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

NATIVE := $(wildcard native/*.toml native/*.py native/src/*.[ch] native/src/*.pyx native/cdc_outbox_native/*)
$(VENV)/native-ready: $(VENV)/ready $(NATIVE)
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps ./native
	touch $@

.PHONY: native
native: $(VENV)/native-ready ## build the native plane into the virtual environment (needs a C compiler)

.PHONY: native-wheels
native-wheels: $(VENV)/release-ready ## wheels of the native plane for this system, in dist/ (Linux: needs docker)
	$(RELEASE)/python -m cibuildwheel --output-dir dist native

.PHONY: native-fuzz
native-fuzz: SEEDS ?= 10
native-fuzz: ## the native plane's C under AddressSanitizer, against an oracle: SEEDS=10
	mkdir -p build
	$(CC) -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -Wall -Wno-unused -o build/native-fuzz \
	  native/fuzz/fuzz.c native/src/plain.c native/src/producer.c native/src/reader.c native/src/libraries.c -lpthread -ldl
	for seed in $$(seq $(SEEDS)); do build/native-fuzz $$seed || exit 1; done

LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade

RELEASE := $(VENV)/release/bin
$(VENV)/release-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)/release
	$(RELEASE)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(RELEASE)/python -m pip install --quiet --group release
	touch $@

$(VENV)/example-ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[demo]' --group example
	touch $@

.PHONY: dev
dev: $(VENV)/ready ## make the virtual environment with everything in it

.PHONY: demo
demo: $(VENV)/demo-ready ## the whole thing on embedded servers, with a kill -9 half way
	$(BIN)/cdc-outbox demo

.PHONY: example
example: $(VENV)/example-ready ## a web API, three consumers and a mail server on embedded servers (examples/registration)
	$(BIN)/python -m examples.registration

.PHONY: test-unit
test-unit: $(VENV)/ready ## the tests that need no server and no Java
	$(PYTEST) $(PARALLEL) tests/unit -m 'not postgres and not kafka and not nightly' $(ARGS)

.PHONY: test
test: $(VENV)/ready ## the tests, on a real PostgreSQL and a real Apache Kafka (WORKERS=4 side by side, each with its own)
	$(PYTEST) $(PARALLEL) -m 'not nightly' $(ARGS)

.PHONY: test-nightly
test-nightly: $(VENV)/ready ## the tests that take long: also run each night, and before a release
	$(PYTEST) $(PARALLEL) -m nightly $(ARGS)

.PHONY: test-older
test-older: $(VENV)/ready ## the tests that meet PostgreSQL once more, on Debian's (15 on bookworm) or POSTGRES_BIN
	CDC_OUTBOX_TEST_START=exec CDC_OUTBOX_POSTGRES_BIN=$(or $(POSTGRES_BIN),$$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)) \
	  $(PYTEST) $(PARALLEL) tests/integration tests/end_to_end -m 'postgres and not nightly' $(ARGS)

.PHONY: test-native
test-native: $(VENV)/native-ready ## the tests that run a relay once more, on the native plane
	CDC_OUTBOX_NATIVE=on $(PYTEST) $(PARALLEL) tests/integration tests/end_to_end tests/faults -m 'postgres and kafka and not nightly' $(ARGS)

.PHONY: test-versions
test-versions: VERSIONS ?= 14 15 16 17
test-versions: $(VENV)/ready ## the same on every older version that is supported, fetched by Maven: VERSIONS="14 16"
	set -e; for version in $(VERSIONS); do \
	  $(MAKE) test-older POSTGRES_BIN="$$($(BIN)/python -m tests.servers.postgres_versions $$version)"; done

.PHONY: check
check: $(VENV)/ready ## format, lint, types, imports, dependencies, words
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/python scripts/dialect.py

.PHONY: format
format: $(VENV)/ready ## rewrite the code as the formatter and the linter want it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: reference
reference: $(VENV)/ready ## write the pages and manifests that are made from the code
	$(BIN)/python scripts/generate.py $(ARGS)

.PHONY: docs
docs: $(VENV)/ready ## the documentation as a site, in site/; ARGS='--repository https://github.com/OWNER/NAME' for links into it
	$(BIN)/python scripts/site.py $(ARGS)

.PHONY: bench
bench: $(VENV)/ready ## drain, steady rates, memory, first start: beside the raw slot, Debezium, a polling worker; ARGS=--help
	$(BIN)/python -m benchmarks $(ARGS)

.PHONY: bench-check
bench-check: $(VENV)/ready ## CPU per row of our own path against its baseline, without servers: seconds
	$(BIN)/python -m benchmarks.bench_check $(ARGS)

.PHONY: bench-micro
bench-micro: $(VENV)/ready ## decode, plan, route, ledger by themselves, in nanoseconds
	$(PYTEST) benchmarks/micro -o addopts='--import-mode=importlib -p no:cacheprovider -p no:xdist -p no:randomly' $(ARGS)

.PHONY: chaos
chaos: SEEDS ?= 20
chaos: FIRST ?= 1
chaos: JOBS ?= 1
chaos: BROKERS ?= 1
chaos: $(VENV)/ready ## random schedules of faults: SEEDS=20 FIRST=1 JOBS=1 BROKERS=1 or 3 (each job has servers of its own)
	$(BIN)/python -m tests.chaos --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS) --brokers $(BROKERS) $(ARGS)

.PHONY: prune-soak
prune-soak: SECONDS ?= 3600
prune-soak: $(VENV)/ready ## prune under load while the relay is killed, frozen and away: SECONDS=3600
	nice $(BIN)/python -m tests.soak.prune --seconds $(SECONDS)

.PHONY: lock
lock: ## write deploy/requirements*.txt, by which the image and the released wheel are installed: each package with its hashes
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet uv
	$(VENV)/lock/bin/uv $(LOCK) pyproject.toml --output-file deploy/requirements.txt
	$(VENV)/lock/bin/uv $(LOCK) --group pyproject.toml:build --output-file deploy/requirements-build.txt

.PHONY: diagrams
diagrams: $(VENV)/ready ## draw the pages' diagrams for the site (needs npm and chromium)
	npm install --silent --no-audit --no-fund --prefix build/mermaid mermaid@11
	$(BIN)/python scripts/diagrams.py build/mermaid/node_modules/mermaid/dist/mermaid.min.js

.PHONY: dist
dist: $(VENV)/release-ready ## the wheels of cdc-outbox and cdc-outbox-app and the source, in dist/
	rm -rf dist
	$(RELEASE)/python -m pip install --quiet --require-hashes --requirement deploy/requirements-build.txt
	$(RELEASE)/python -m build --no-isolation
	$(RELEASE)/python -m build --no-isolation --wheel --outdir dist packaging/cdc-outbox-app

.PHONY: sbom
sbom: dist ## what the package brings along, as CycloneDX, in dist/
	rm -rf build/sbom
	$(PYTHON) -m venv --without-pip build/sbom
	$(RELEASE)/python -m pip --python build/sbom/bin/python install --quiet --require-hashes --requirement deploy/requirements.txt
	$(RELEASE)/python -m pip --python build/sbom/bin/python install --quiet --no-deps dist/cdc_outbox-*.whl
	$(RELEASE)/cyclonedx-py environment --pyproject pyproject.toml --mc-type application --output-reproducible \
	  --output-file dist/cdc-outbox.cdx.json build/sbom/bin/python

.PHONY: clean
clean: ## remove what the targets made
	rm -rf $(VENV) dist build site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
