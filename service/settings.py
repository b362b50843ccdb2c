"""All settings of the service. The composition root reads them; every other part receives plain values."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, DirectoryPath, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service import setting_names, setting_rules, setting_values
from service.telemetry.logs import LogFormat

BUNDLED_MODEL = Path(__file__).parent.parent / "model_store" / "artifacts" / "edgesam-lite"


class Settings(BaseSettings):
    """Environment variables with the prefix `EDGESAM_`; lists are JSON."""

    model_config = SettingsConfigDict(
        env_prefix=setting_names.PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on. 0 selects a free port.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="Port that serves /metrics instead of the main port. 0 selects a free port."
    )
    otlp_endpoint: Annotated[str, AfterValidator(setting_values.otlp_address)] | None = Field(
        None,
        description="Address of the OpenTelemetry collector that receives traces, http://HOST:4318. Needs the "
        "extra otel.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )
    log_format: LogFormat = Field(
        "auto",
        description="Format of the log: json, text, or auto. auto is text on a terminal and json elsewhere.",
    )

    role: Literal["all", "embed", "segment"] = Field(
        "all",
        description="Requests that this replica answers: all, only those that embed, or only those that "
        "segment. segment needs EDGESAM_REDIS_URL.",
    )
    model_dir: Path = Field(
        BUNDLED_MODEL,
        description="Folder of the model to serve, with manifest.json and the ONNX graphs. Where EDGESAM_MODELS is "
        "set, that is served, and may name this model, too.",
    )
    models: Annotated[list[str], NoDecode, BeforeValidator(setting_values.separated_by_commas)] = Field(
        default_factory=list,
        description="Models to serve, separated by commas; the first one answers requests that name none. Each is a "
        "name that is looked up in EDGESAM_MODELS_DIR and among the bundled models, or a folder with a slash, such as "
        "./mine. Unset: the model of EDGESAM_MODEL_DIR alone.",
    )
    models_dir: Path = Field(
        Path("models"), description="Folder in which models are looked up by their names, one subfolder each."
    )
    provider: Literal["auto", "cpu", "openvino", "cuda", "tensorrt"] = Field(
        "auto",
        description="Execution provider. auto times those that are installed and selects the fastest, for the "
        "encoder and for prompts. openvino is for the encoder; prompts then run on the CPU as with cpu.",
    )
    precision: Literal["float32", "tf32", "float16", "bfloat16"] = Field(
        "float32",
        description="Precision of the encoder, and of the decoder where that is faster. bfloat16 needs "
        "openvino and a processor with AVX512_BF16 or AMX, tf32 needs cuda or tensorrt, float16 needs tensorrt.",
    )
    decoder: Literal["auto", "native", "onnx"] = Field(
        "auto",
        description="Prompt decoder on a CPU: native is the C code, onnx the ONNX graph without any C code. "
        "auto prefers native.",
    )
    engine_cache_dir: Path | None = Field(
        None,
        description="Folder in which openvino and tensorrt keep compiled graphs. Unset: graphs are compiled at every "
        "start.",
    )
    threads: int = Field(
        0,
        ge=0,
        le=256,
        description="Number of threads of an ONNX Runtime session, of the decoder and for images. 0 follows "
        "the CPU limit of the cgroup.",
    )
    decode_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Number of decoder calls at the same time. 0: as many as threads with the native decoder, "
        "else one.",
    )
    max_encode_batch: int = Field(
        1, ge=1, le=64, description="Largest number of images encoded in one call. More than 1 helps on a GPU."
    )
    max_decode_batch: int = Field(
        8, ge=1, le=64, description="Largest number of prompts decoded in one call. Each takes about 40 MiB of memory."
    )
    embedding_dtype: Literal["float16", "float32", "int8"] = Field(
        "float16",
        description="Number format of cached embeddings. In Redis and on disk, an image takes 2 MiB as float16, "
        "4 MiB as float32 and 1 MiB as int8; with EdgeTAM and SAM 2.1 it takes 8, 16 and 7 MiB. An image for which "
        "int8 is too coarse stays float16, and one with a number that float16 cannot hold stays float32.",
    )

    redis_url: Annotated[SecretStr, AfterValidator(setting_values.redis_address)] | None = Field(
        None,
        description="Address of the Redis that replicas share: redis://, rediss://, unix://, or with +cluster "
        "or +sentinel before the colon. Unset: no Redis.",
    )
    redis_max_connections: int = Field(
        8,
        ge=1,
        le=256,
        description="Largest number of connections to Redis from this process, beside one that subscribes to "
        "deletions, and two for embeddings of EdgeTAM and SAM 2.1.",
    )
    redis_connect_timeout_s: float = Field(
        0.1, gt=0, le=10, description="Time limit for connecting to Redis, in seconds."
    )
    redis_read_timeout_s: float = Field(
        0.1, gt=0, le=10,
        description="Time limit for one answer of Redis, in seconds; four times as long for EdgeTAM and SAM 2.1.",
    )  # fmt: skip
    redis_queue_timeout_s: float = Field(
        0.5, gt=0, le=10,
        description="Time limit for waiting for a free connection to Redis, in seconds; likewise four times as long.",
    )  # fmt: skip
    redis_breaker_failures: int = Field(
        5,
        ge=1,
        le=1000,
        description="Number of failures in a row after which the circuit breaker opens and Redis is not asked.",
    )
    redis_breaker_open_s: float = Field(
        5.0, gt=0, le=300, description="Time for which the circuit breaker stays open, in seconds."
    )
    redis_lock_ttl_s: float = Field(
        10.0,
        gt=0.1,
        le=300,
        description="Time after which another replica may encode an image that a lost replica began, in seconds.",
    )
    cache_ttl_s: float = Field(
        86400.0, gt=0, description="Time for which an embedding is kept after its last use, in seconds."
    )
    memory_cache_bytes: int = Field(
        1 << 30,
        ge=0,
        description="Size of the in-memory cache of prepared images, in bytes. An image takes 5 MiB, and 11 "
        "MiB with EdgeTAM and SAM 2.1. Where ONNX Runtime decodes it takes 10 and 28 MiB, 8 and 20 of them in the "
        "memory of a GPU that decodes. 0 disables the cache.",
    )
    disk_cache_dir: Path | None = Field(
        None,
        description="Folder in which embeddings are kept as files, also over restarts. Replicas may share it. Unset: "
        "no disk cache.",
    )
    disk_cache_bytes: int = Field(
        10 << 30,
        ge=64 << 20,
        description="Size of the folder EDGESAM_DISK_CACHE_DIR, in bytes. The least recently used files are removed. "
        "They do not expire.",
    )
    mask_ttl_s: float = Field(
        600.0, gt=0, description="Time for which a mask can be refined by its mask_id, in seconds."
    )
    mask_store_timeout_s: float = Field(
        0.25,
        ge=0,
        le=10,
        description="Time that an answer of /segment waits for Redis to store its masks, in seconds. "
        "0: it does not wait, and other replicas find the masks later.",
    )
    mask_memory_bytes: int = Field(
        256 << 20,
        ge=0,
        description="Size of the in-memory cache of masks for refinement, in bytes. A mask takes 128 KiB.",
    )

    keep_images_s: float = Field(
        0.0, ge=0, le=86400, description="Time for which Redis keeps a copy of each upload, in seconds. 0: no copies."
    )

    max_image_bytes: int = Field(32 << 20, ge=1024, description="Largest size of an uploaded image file, in bytes.")
    max_image_pixels: int = Field(52_000_000, ge=1, description="Largest number of pixels of an image.")
    max_request_bytes: int = Field(8 << 20, ge=1024, description="Largest size of the body of /segment, in bytes.")
    max_prompts: int = Field(64, ge=1, le=256, description="Largest number of prompts in one request.")
    max_embed_requests: int = Field(
        32,
        ge=1,
        description="Largest number of uploads in progress, and separately of downloads and deletions. "
        "Further requests are refused with 503.",
    )
    max_segment_requests: int = Field(
        256, ge=1, description="Largest number of /segment requests in progress. Further requests are refused with 503."
    )
    max_encode_queue: int = Field(
        32, ge=1, description="Largest number of images that wait for the encoder. Further images are refused with 503."
    )
    max_decode_queue: int = Field(
        128,
        ge=1,
        description="Largest number of requests that wait for the decoder. Further requests are refused with 503.",
    )
    max_connections: int = Field(
        16384,
        ge=1,
        description="Largest number of open connections. Further connections are refused with 503. "
        "RLIMIT_NOFILE may allow fewer.",
    )
    head_timeout_s: float = Field(
        10.0, gt=0, description="Time limit for receiving the request line and headers, in seconds."
    )
    max_head_bytes: int = Field(
        65536,
        ge=4096,
        description="Largest size of the request line and headers, in bytes. Larger ones are refused with 431.",
    )
    body_timeout_s: float = Field(30.0, gt=0, description="Time limit for receiving a body, in seconds.")
    min_upload_bytes_per_s: int = Field(
        1024,
        ge=0,
        description="Lowest average speed of a body after its first 5 s, in bytes per second. 0 allows any speed.",
    )
    send_timeout_s: float = Field(30.0, gt=0, description="Time limit for a client to take its answer, in seconds.")
    embed_timeout_s: float = Field(
        60.0, gt=0, description="Time limit of /embed after the body has arrived, in seconds."
    )
    segment_timeout_s: float = Field(
        30.0, gt=0, description="Time limit of /segment after the body has arrived, in seconds."
    )
    everything_timeout_s: float = Field(
        60.0, gt=0, description="Time limit of /segment/everything after the body has arrived, in seconds."
    )
    everything_at_once: int = Field(
        4,
        ge=1,
        le=256,
        description="Largest number of /segment/everything requests in progress. Further requests are refused with "
        "503. An API key has at most one of them; its further requests are refused with 429.",
    )
    everything_ttl_s: float = Field(
        86400.0,
        ge=0,
        description="Time for which a result of /segment/everything is kept in Redis after its last use, in seconds. "
        "0 keeps none.",
    )
    max_points_per_side: int = Field(
        64, ge=1, le=64, description="Largest points_per_side of /segment/everything. 64 asks for 4096 prompts."
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        le=300,
        description="Time after SIGTERM in which requests are still answered while /readyz answers 503, in seconds.",
    )
    graceful_timeout_s: int = Field(
        20, ge=1, le=600, description="Time for requests in progress to end after draining, in seconds."
    )

    cors_origins: list[str] = Field(
        default_factory=list,
        description='Origins whose pages may call the service, as a JSON list. ["*"] allows all origins.',
    )
    api_keys: Annotated[list[SecretStr], AfterValidator(setting_values.long_keys)] = Field(
        default_factory=list,
        description="API keys with all roles, as a JSON list. Each request needs one of them or of the file. "
        "Unset, and no file: no key is needed.",
    )
    api_keys_file: Path | None = Field(
        None, description="File of hashed API keys with roles, namespaces and limits. It is read again when it changes."
    )
    usage_metrics: bool = Field(False, description="Whether the metrics count the usage of each API key, by its name.")
    metrics_access: Literal["open", "admin", "off"] = Field(
        "open",
        description="Access to /metrics on the main port: open to everybody, admin for keys with that role, "
        "off for nobody.",
    )
    docs_access: Literal["open", "admin", "off"] | None = Field(
        None,
        description="Access to /docs and /openapi.json, with the same values. Unset: admin where keys are "
        "needed, else open.",
    )

    adapters: Annotated[
        list[Literal["cvat", "label-studio", "roboflow", "x-anylabeling"]],
        NoDecode,
        BeforeValidator(setting_values.separated_by_commas),
    ] = Field(
        default_factory=list,
        description="Protocols of labelling tools to answer, separated by commas: cvat, label-studio, "
        "roboflow, x-anylabeling.",
    )
    adapter_proposals: int = Field(
        0,
        ge=0,
        le=1000,
        description="Largest number of objects that adapters propose for an image without prompts, in CVAT, Label "
        "Studio and X-AnyLabeling. 0 proposes none.",
    )
    label_studio_files: Annotated[
        list[DirectoryPath], NoDecode, BeforeValidator(setting_values.separated_as_in_path)
    ] = Field(
        default_factory=list,
        description="Folders of Label Studio's files, in which the addresses of its images are looked up. Several are "
        "separated as in PATH, or are a JSON list.",
    )
    label_studio_url: Annotated[str, AfterValidator(setting_values.label_studio_address)] | None = Field(
        None,
        description="Address of the Label Studio whose images may be fetched, http://HOST:8080. Needs a token. Unset: "
        "nothing is fetched.",
    )
    label_studio_token: SecretStr | None = Field(
        None,
        description="Token for EDGESAM_LABEL_STUDIO_URL: a personal access token or a legacy token.",
    )
    label_studio_token_file: Path | None = Field(
        None, description="File with the token for EDGESAM_LABEL_STUDIO_URL. It is read again with each use."
    )
    browser_runtime_dir: DirectoryPath | None = Field(
        None,
        description="Folder of onnxruntime-web's files. When set, the page offers decoding in the browser, "
        "and the decoder's weights can be downloaded.",
    )

    @property
    def asks_for_keys(self) -> bool:
        """Whether requests need a key."""
        return bool(self.api_keys) or self.api_keys_file is not None

    @classmethod
    def variables(cls) -> list[str]:
        """Names of the environment variables of all settings."""
        return [f"{setting_names.PREFIX}{name.upper()}" for name in cls.model_fields]

    @classmethod
    def unknown_variables(cls) -> list[str]:
        """Names in the environment that begin like settings and are none, sorted."""
        return setting_names.unknown_variables(cls.variables())

    @classmethod
    def nearest_variable(cls, name: str) -> str | None:
        """Return the setting whose name is most similar to `name`; None where no name is similar."""
        return setting_names.nearest_variable(name, cls.variables())

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        setting_rules.check_together(self)
        return self
