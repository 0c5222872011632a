# Every task of the project: `make` lists them.

.DEFAULT_GOAL := help
.PHONY: help run test test-long torture fuzz soak audit sbom bench bench-streams bench-overload bench-workers bench-data profile check format lock
python := .venv/bin/python
PEERS ?= litellm portkey nginx

# PYTHON, HOST, PORT and the like may be given as `make run PORT=5001`: make exports what stands on its command line.

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Install what is needed and start the gateway on http://localhost:5000
	@sh tools/bootstrap.sh run
	@exec $(python) -m proxy serve

test: ## Run the tests, in under five minutes (a part of them: make test ARGS="tests/proxy -k stream")
	@sh tools/bootstrap.sh dev
	@$(python) -m pytest -n 4 --dist worksteal --hypothesis-profile quick -m "not long" $(ARGS)

test-long: ## Run the tests that take longest: schemathesis, nginx, more ways to end, and four times the examples
	@sh tools/bootstrap.sh dev
	@$(python) -m pytest -n 2 --dist worksteal -m "long or hypothesis" $(ARGS)

torture: ## Torture the meter with kills, freezes and cheats, about five minutes (make torture ARGS="--minutes 1 --seed 7")
	@sh tools/bootstrap.sh dev
	@$(python) -m tests.torture $(ARGS)

fuzz: ## Try every endpoint with schemathesis, as everybody, for many minutes (make fuzz ARGS="--examples 20 --callers user")
	@sh tools/bootstrap.sh dev
	@$(python) -m tests.fuzz $(ARGS)

audit: ## Look for known vulnerabilities in the locked packages, which needs the network
	@sh tools/bootstrap.sh dev
	@$(python) tools/audit.py requirements.lock requirements-dev.lock

sbom: ## Write the bill of materials of the locked packages, in CycloneDX's form, to sbom.cdx.json
	@sh tools/bootstrap.sh dev
	@$(python) tools/sbom.py requirements.lock sbom.cdx.json

soak: ## Let a gateway run under mixed traffic and see whether it grows (make soak ARGS="--minutes 10")
	@sh tools/bootstrap.sh dev
	@$(python) -m tests.soak $(ARGS)

bench: ## Measure the gateway beside its peers, under ten minutes (alone: make bench PEERS=)
	@sh tools/bootstrap.sh dev
	@$(python) -m bench compare $(PEERS) $(ARGS)

bench-streams: ## Hold a thousand streams open on two workers (make bench-streams ARGS="--streams 200")
	@sh tools/bootstrap.sh dev
	@$(python) -m bench streams $(ARGS)

bench-workers: ## Measure what a second worker brings (make bench-workers ARGS="--workers 4")
	@sh tools/bootstrap.sh dev
	@$(python) -m bench workers $(ARGS)

bench-overload: ## Measure how long a full gateway takes to refuse (make bench-overload ARGS="--connections 256")
	@sh tools/bootstrap.sh dev
	@$(python) -m bench overload $(ARGS)

bench-data: ## Measure lists and statistics on a large database (make bench-data ARGS="--events 200000")
	@sh tools/bootstrap.sh dev
	@$(python) -m bench data $(ARGS)

profile: ## Show where the CPU of a chat and of a stream goes (make profile ARGS="'chat, 1 connection'")
	@sh tools/bootstrap.sh dev
	@$(python) -m bench profile $(ARGS)

check: ## Check format, lint, types and the direction of imports
	@sh tools/bootstrap.sh dev
	@$(python) -m ruff check
	@$(python) -m ruff format --check
	@$(python) -m mypy
	@$(python) -m pytest tests/test_architecture.py -q

format: ## Rewrite the code as `make check` wants it
	@sh tools/bootstrap.sh dev
	@$(python) -m ruff check --fix-only
	@$(python) -m ruff format

# The second file holds the first one's packages at the same versions, so that one install serves both.
lock: ## Write the lock files anew from pyproject.toml (newer versions: make lock ARGS=--upgrade)
	@sh tools/bootstrap.sh dev
	@$(lock_command) $(ARGS) --output-file requirements.lock
	@$(lock_command) $(ARGS) --group dev --constraints requirements.lock --output-file requirements-dev.lock

lock_command = UV_CUSTOM_COMPILE_COMMAND='make lock' $(python) -m uv pip compile pyproject.toml --extra embedded --quiet --no-config \
	--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate
