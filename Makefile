# Everything a developer or CI does, by name. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

UV := $(or $(shell command -v uv),.tools/bin/uv)
BIN := .venv/bin
GENERATED := crds/finetunejobs.yaml charts/finetune-operator/files/crd.yaml docs/finetunejob.md

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: .venv/.synced ## Make .venv from uv.lock (installs uv beside it where there is none)

.venv/.synced: pyproject.toml uv.lock | $(UV)
	$(UV) sync --frozen
	@touch $@

.tools/bin/uv:
	python3 -m venv .tools
	.tools/bin/pip install --quiet 'uv>=0.9'

.PHONY: generate
generate: setup ## Write every generated file: the CRD, the chart's copy of it, and the reference page
	$(BIN)/python -m finetune_api.crd $(GENERATED)

.PHONY: check
check: setup ## Lint, types, import contracts, generated files: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m finetune_api.crd --check $(GENERATED)

.PHONY: unit
unit: setup ## Tests that need no cluster (they start their own S3 server)
	$(BIN)/python -m localcluster binaries --only tools --only checks
	$(BIN)/pytest -m 'not cluster and not simulation and not long and not soak' -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: long
long: setup ## The other tests that need no cluster: real runs, every method, storage faults
	$(BIN)/python -m localcluster binaries --only tools
	$(BIN)/pytest -m 'long and not soak' -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: soak
soak: setup ## The long sweeps: a thousand kills of the operator, signals at a hundred random moments of a run (two hours; SOAK_MOMENTS sets how many)
	$(BIN)/python -m localcluster binaries --only tools --only kubernetes --only etcd --only simulation
	$(BIN)/pytest -m soak -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: simulation
simulation: setup ## The operator on a real control plane with simulated nodes: faults, kills, scale
	$(BIN)/python -m localcluster binaries --only kubernetes --only etcd --only simulation --only kueue --only tools --only checks
	$(BIN)/pytest -m 'simulation and not soak'

.PHONY: test
test: check unit long simulation cluster-test ## Everything: check, unit, long, simulation, and the tests on a real cluster (root)

.PHONY: cluster-test
cluster-test: images ## Only the tests on a real cluster (root)
	$(BIN)/pytest -m cluster

.PHONY: demo
demo: requirements ## One FineTuneJob on a real model, from apply to a verified adapter (root)
	$(BIN)/python examples/demo/demo.py

.PHONY: bench-trainer
bench-trainer: setup ## The trainer beside TRL and plain Trainer: speed, memory, start; needs a quiet machine, half an hour
	$(UV) sync --frozen --group bench
	$(BIN)/python -m bench.trainer $(BENCH)

.PHONY: bench-operator
bench-operator: setup ## The operator at scale on a simulated control plane; needs a quiet machine (BENCH="burst --jobs 500")
	$(UV) sync --frozen --group bench
	$(BIN)/python -m localcluster binaries
	$(BIN)/python -m bench.scale $(BENCH)

.PHONY: requirements
requirements: setup
	$(BIN)/python -m localcluster requirements --install

.PHONY: images
images: requirements ## The local cluster with the operator's and the trainer's image in it, built side by side (root)
	$(BIN)/python -m localcluster up --images

.PHONY: cluster-up
cluster-up: requirements ## Start the local cluster: a real Kubernetes node and an S3 server (root)
	$(BIN)/python -m localcluster up

.PHONY: cluster-down
cluster-down: setup ## Stop the local cluster; built binaries and images stay
	$(BIN)/python -m localcluster down
