"""Every setting of the service, read once, in `create_app`; everything else receives plain values."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import DirectoryPath, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

BUNDLED_MODEL = Path(__file__).parent.parent / "model_store" / "artifacts" / "edgesam-lite"

LEAST_MEMORY_BYTES = 16 << 20  # one prepared picture takes 10 MiB, with float32 tokens 12

_REDIS_SCHEMES = (
    *("redis://", "rediss://", "unix://", "redis+cluster://", "rediss+cluster://"),
    *("redis+sentinel://", "rediss+sentinel://"),
)


class Settings(BaseSettings):
    """Environment variables with the prefix `EDGESAM_`; lists are JSON."""

    model_config = SettingsConfigDict(
        env_prefix="EDGESAM_", env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Serve /metrics on this port instead of the main one; 0 takes a free one."
    )
    otlp_endpoint: str | None = Field(
        None, description="Send traces to the OpenTelemetry collector at this address, http://HOST:4318; extra otel."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line shown.")

    role: Literal["all", "embed", "segment"] = Field(
        "all",
        description="Requests to answer: all, or half of them with half of the model; segment needs EDGESAM_REDIS_URL.",
    )
    model_dir: Path = Field(BUNDLED_MODEL, description="Folder of the artifact to serve: manifest.json and graphs.")
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        "auto", description="What computes; auto times those that are installed, for the encoder and for clicks."
    )
    precision: Literal["float32", "tf32", "float16", "bfloat16"] = Field(
        "float32",
        description="What the encoder computes in, and clicks where it is faster; "
        "bfloat16 needs openvino, tf32 cuda or tensorrt, float16 tensorrt.",
    )
    decoder: Literal["auto", "native", "onnx"] = Field(
        "auto",
        description="What decodes on a CPU: native is the decoder in C, onnx the graph and no C at all; "
        "auto prefers native.",
    )
    engine_cache_dir: Path | None = Field(
        None, description="Folder where tensorrt keeps compiled engines; without one each start compiles anew."
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Threads that compute, a session's and those for pictures; 0 follows the cgroup's CPU limit.",
    )
    decode_workers: int = Field(
        0, ge=0, le=64, description="Decoder calls at the same time; 0: on CPUs one a thread, else one."
    )
    max_encode_batch: int = Field(1, ge=1, le=64, description="Pictures encoded together; more than 1 pays on a GPU.")
    max_decode_batch: int = Field(8, ge=1, le=64, description="Prompts decoded together; about 40 MiB each.")
    embedding_dtype: Literal["float16", "float32"] = Field(
        "float16", description="What embeddings are kept as, in memory and in Redis: 2 or 4 MiB a picture."
    )

    redis_url: SecretStr | None = Field(
        None, description="Shared cache: redis://, rediss://, unix://, or with +cluster or +sentinel before the colon."
    )
    redis_max_connections: int = Field(
        8,
        ge=1,
        le=256,
        description="Connections to Redis from this process, beside one that listens to deletions.",
    )
    redis_connect_timeout_s: float = Field(0.1, gt=0, le=10, description="Bound of connecting to Redis, seconds.")
    redis_read_timeout_s: float = Field(0.1, gt=0, le=10, description="Bound of one answer of Redis, seconds.")
    redis_queue_timeout_s: float = Field(
        0.5, gt=0, le=10, description="Bound of waiting for a free connection to Redis, seconds."
    )
    redis_breaker_failures: int = Field(5, ge=1, le=1000, description="Failures in a row after which Redis rests.")
    redis_breaker_open_s: float = Field(5.0, gt=0, le=300, description="Time Redis is left alone then, seconds.")
    redis_lock_ttl_s: float = Field(
        10.0, gt=0.1, le=300, description="Time after which another replica may encode what a lost one began, seconds."
    )
    cache_ttl_s: float = Field(86400.0, gt=0, description="Time an embedding is kept after its last use, seconds.")
    memory_cache_bytes: int = Field(
        1 << 30, ge=0, description="Bytes of prepared pictures, 10 MiB each, on a GPU 8 of them there; 0 keeps none."
    )
    mask_ttl_s: float = Field(600.0, gt=0, description="Time a mask can be refined by its mask_id, seconds.")
    mask_memory_bytes: int = Field(
        256 << 20, ge=0, description="Bytes of masks for refinement in this process, 128 KiB each."
    )

    max_image_bytes: int = Field(32 << 20, ge=1024, description="Largest upload, bytes.")
    max_image_pixels: int = Field(50_000_000, ge=1, description="Most pixels of a picture.")
    max_request_bytes: int = Field(8 << 20, ge=1024, description="Largest body of /segment, bytes.")
    max_prompts: int = Field(64, ge=1, le=256, description="Most prompts of one request.")
    max_embed_requests: int = Field(
        32, ge=1, description="Uploads in progress, and apart downloads and deletions; more are refused with 503."
    )
    max_segment_requests: int = Field(256, ge=1, description="Prompt requests in progress; more are refused with 503.")
    max_encode_queue: int = Field(32, ge=1, description="Pictures waiting for the encoder; more are refused with 503.")
    max_decode_queue: int = Field(128, ge=1, description="Requests waiting for the decoder; more are refused with 503.")
    max_connections: int = Field(
        16384, ge=1, description="Open connections; more are refused with 503. RLIMIT_NOFILE may allow fewer."
    )
    head_timeout_s: float = Field(10.0, gt=0, description="Time in which a request's line and headers arrive, seconds.")
    max_head_bytes: int = Field(
        65536, ge=4096, description="Most bytes of a request's line and headers; more are refused with 431."
    )
    body_timeout_s: float = Field(30.0, gt=0, description="Time in which a body has to arrive, seconds.")
    min_upload_bytes_per_s: int = Field(
        1024, ge=0, description="Least average speed of a body after its first 5 s, bytes a second."
    )
    send_timeout_s: float = Field(30.0, gt=0, description="Time in which a client has to take its answer, seconds.")
    embed_timeout_s: float = Field(60.0, gt=0, description="Bound of /embed after the body has arrived, seconds.")
    segment_timeout_s: float = Field(30.0, gt=0, description="Bound of /segment after the body has arrived, seconds.")
    drain_s: float = Field(
        0.0, ge=0, le=300, description="After SIGTERM: time of answering while /readyz says 503, seconds."
    )
    graceful_timeout_s: int = Field(
        20, ge=1, le=600, description="Then: time requests in progress have to end, seconds."
    )

    cors_origins: list[str] = Field(
        default_factory=list, description='Origins whose pages may call the service, as JSON; ["*"] allows all.'
    )
    api_keys: list[SecretStr] = Field(
        default_factory=list,
        description="Keys as JSON that may do everything; one, or one of the file, must come with each request. "
        "Without either none is asked for.",
    )
    api_keys_file: Path | None = Field(
        None, description="File of hashed keys with roles, namespaces and limits; read again when it changes."
    )
    metrics_access: Literal["open", "admin", "off"] = Field(
        "open", description="Who may read /metrics on the main port: everybody, keys with the role admin, nobody."
    )
    docs_access: Literal["open", "admin", "off"] | None = Field(
        None, description="The same for /docs and /openapi.json; unset: admin where keys are asked for, else open."
    )

    adapters: Annotated[list[Literal["label-studio", "roboflow", "x-anylabeling"]], NoDecode] = Field(
        default_factory=list,
        description="Protocols of other tools to speak, separated by commas: label-studio, roboflow, x-anylabeling.",
    )
    label_studio_files: DirectoryPath | None = Field(
        None, description="Folder of Label Studio's files, from which its addresses of pictures are read."
    )
    browser_runtime_dir: DirectoryPath | None = Field(
        None,
        description="Folder of onnxruntime-web's files: the page offers to decode in the browser, and the decoder's "
        "weights can be downloaded.",
    )

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Names in the environment that look like settings and are none: mostly slips of the pen."""
        known = {f"EDGESAM_{name.upper()}" for name in cls.model_fields} | {"EDGESAM_STORE_DIR"}  # the model store's
        return sorted(name for name in os.environ if name.upper().startswith("EDGESAM_") and name.upper() not in known)

    @field_validator("adapters", mode="before")
    @classmethod
    def _are_separated_by_commas(cls, names: object) -> object:
        return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else names

    @field_validator("redis_url")
    @classmethod
    def _has_known_scheme(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(_REDIS_SCHEMES):
            raise ValueError(f"redis_url must start with one of {', '.join(_REDIS_SCHEMES)}")
        return url

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_a_web_address(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("otlp_endpoint must start with http:// or https://: traces are sent as OTLP over HTTP")
        return url

    @field_validator("api_keys")
    @classmethod
    def _are_long_enough(cls, keys: list[SecretStr]) -> list[SecretStr]:
        if any(len(key.get_secret_value()) < 16 for key in keys):
            raise ValueError("api_keys: a key has at least 16 characters")
        return keys

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.redis_url is None and self.memory_cache_bytes < LEAST_MEMORY_BYTES:
            raise ValueError(
                f"EDGESAM_MEMORY_CACHE_BYTES is too small to keep a single picture, and there is no EDGESAM_REDIS_URL; "
                f"give at least {LEAST_MEMORY_BYTES} bytes"
            )
        if "admin" in (self.metrics_access, self.docs_access) and not self.asks_for_keys:
            raise ValueError(
                "EDGESAM_METRICS_ACCESS and EDGESAM_DOCS_ACCESS can be admin only where there are keys; set "
                "EDGESAM_API_KEYS_FILE or EDGESAM_API_KEYS"
            )
        if self.metrics_port is not None and self.metrics_access == "admin":
            raise ValueError(
                "EDGESAM_METRICS_PORT asks nobody for a key; leave EDGESAM_METRICS_ACCESS unset and close the port to "
                "others, or leave EDGESAM_METRICS_PORT unset"
            )
        if self.role == "segment" and self.redis_url is None:
            raise ValueError(
                "EDGESAM_ROLE=segment finds its pictures in Redis alone; set EDGESAM_REDIS_URL to the Redis of the "
                "replicas that embed, or EDGESAM_ROLE=all"
            )
        if self.role != "all" and self.adapters:
            raise ValueError("EDGESAM_ADAPTERS embed and segment in one request; they need EDGESAM_ROLE=all")
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError("EDGESAM_METRICS_PORT equals EDGESAM_PORT; leave it unset to serve /metrics there")
        return self
