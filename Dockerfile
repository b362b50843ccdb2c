# Container images of the service, and of the tools that make its models. `make image` builds the first.
#
#   cpu       serves with ONNX Runtime on CPUs; the default
#   openvino  serves with ONNX Runtime and OpenVINO on CPUs
#   gpu       serves with ONNX Runtime on CUDA and TensorRT
#   store     fetches, converts and checks models; no torch
#   model     trains, evaluates and exports models with torch
#
# Every base image is an argument, so that a digest can pin it:
#   docker build --build-arg PYTHON_BASE=python:3.11-slim-bookworm@sha256:… .
ARG PYTHON_BASE=python:3.11-slim-bookworm
ARG CUDA_BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

# --- Build stages. The final images copy packages and code from them, so they contain no compiler and no pip.

FROM ${PYTHON_BASE} AS builder
# The base image pins its distribution. Debian's mirrors drop a version of a package within months, so none is pinned here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY docker/install /usr/local/bin/install-stage
WORKDIR /build

FROM builder AS cpu-packages
COPY requirements/serve.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip install-stage packages requirements/serve.lock

FROM builder AS openvino-packages
COPY requirements/openvino.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip install-stage packages requirements/openvino.lock

FROM builder AS store-packages
COPY requirements/store.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip install-stage packages requirements/store.lock

FROM builder AS model-packages
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/model.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip install-stage packages requirements/model.lock \
    && TORCH_INDEX="${TORCH_INDEX}" install-stage torch "${TORCH}"

# Without the folder model_store the package contains the service only.
FROM builder AS service-code
COPY requirements/build.lock requirements/
COPY pyproject.toml setup.py ./
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip install-stage code

FROM service-code AS model-code
COPY model_store model_store
RUN --mount=type=cache,target=/root/.cache/pip rm -rf /opt/app && install-stage code

# The CUDA base image has another version of Python, so packages and the C library are built again for it.
FROM ${CUDA_BASE} AS cuda-base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*

FROM cuda-base AS cuda-builder
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
COPY docker/install /usr/local/bin/install-stage
WORKDIR /build

FROM cuda-builder AS gpu-packages
COPY requirements/gpu.lock requirements/
RUN --mount=type=cache,target=/root/.cache/pip install-stage packages requirements/gpu.lock

FROM cuda-builder AS gpu-code
COPY requirements/build.lock requirements/
COPY pyproject.toml setup.py ./
COPY service service
RUN --mount=type=cache,target=/root/.cache/pip install-stage code

# --- Final images. Layers are ordered by how often they change: packages, the model, the code.

# Common part of the two images with the model store.
FROM ${PYTHON_BASE} AS tools
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /work
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "model_store"]
CMD ["list"]

FROM tools AS store
COPY --from=store-packages /opt/venv /opt/venv
COPY --from=model-code /opt/app /opt/app
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="EdgeSAM models" \
      org.opencontainers.image.description="Fetches, converts and checks models for the EdgeSAM service." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM tools AS model
COPY --from=model-packages /opt/venv /opt/venv
COPY --from=model-code /opt/app /opt/app
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="EdgeSAM model store" \
      org.opencontainers.image.description="Fetches, trains, evaluates and exports models for the EdgeSAM service." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Common part of the three serving images; `gpu` repeats it on another base (a test compares them). With one arena of
# glibc's allocator (MALLOC_ARENA_MAX) a replica at work needs about 160 MiB less: memory that one thread frees serves
# all others.
FROM ${PYTHON_BASE} AS serving
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MALLOC_ARENA_MAX=1 \
    ORT_DISABLE_TELEMETRY=1 \
    EDGESAM_HOST=0.0.0.0 \
    EDGESAM_PORT=8000 \
    EDGESAM_MODEL_DIR=/opt/models/edgesam-lite
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "service.probe"]
ENTRYPOINT ["python", "-m", "service"]
LABEL org.opencontainers.image.description="EdgeSAM over HTTP: embed an image once, then segment an object with each click." \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-edgesam-lite-weights"

FROM cuda-base AS gpu
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/app \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    MALLOC_ARENA_MAX=1 \
    ORT_DISABLE_TELEMETRY=1 \
    EDGESAM_HOST=0.0.0.0 \
    EDGESAM_PORT=8000 \
    EDGESAM_MODEL_DIR=/opt/models/edgesam-lite
COPY --from=gpu-packages /opt/venv /opt/venv
COPY model_store/artifacts/edgesam-lite /opt/models/edgesam-lite
COPY --from=gpu-code /opt/app /opt/app
WORKDIR /
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "service.probe"]
ENTRYPOINT ["python", "-m", "service"]
LABEL org.opencontainers.image.description="EdgeSAM over HTTP: embed an image once, then segment an object with each click." \
      org.opencontainers.image.licenses="Apache-2.0 AND LicenseRef-edgesam-lite-weights"
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="EdgeSAM service (CUDA)" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM serving AS openvino
COPY --from=openvino-packages /opt/venv /opt/venv
COPY model_store/artifacts/edgesam-lite /opt/models/edgesam-lite
COPY --from=service-code /opt/app /opt/app
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="EdgeSAM service (OpenVINO)" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM serving AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
COPY model_store/artifacts/edgesam-lite /opt/models/edgesam-lite
COPY --from=service-code /opt/app /opt/app
ARG VERSION=unknown
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="EdgeSAM service" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
