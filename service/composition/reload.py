"""Loading other models while the service runs, and serving them from one moment to the next."""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Final

from service.composition.cache import Cache
from service.composition.inference import Inference
from service.composition.model_folders import ModelFolders, UnknownModel
from service.composition.models import LoadedModel, check_together, load_model, manifest_sha256, served_model
from service.errors import DeadlineExceeded, ModelLoadFailed, ModelNotFound, NotReady, ReloadInProgress
from service.inference.scheduling.thread_priority import run_at_low_priority
from service.inference.served_models import ModelChange, ServedModel, ServedModels
from service.manifest import load_manifest
from service.settings import Settings

logger = logging.getLogger(__name__)

# Time that a request waits for a reload. The largest models take minutes on a slow disk.
RELOAD_TIMEOUT_S: Final = 600.0


class ModelReload:
    """Reloads the models of this process, one reload at a time.

    A model whose manifest file has not changed is kept. Others are loaded, verified and warmed up beside those that
    serve, so for that time both take memory. Then all are replaced at once. A reload that fails changes nothing.

    Args:
        settings: Settings of the service.
        models: Served models, which are replaced.
        cache: Caches in memory and in Redis.
        inference: Queues and threads of all models.
        on_replaced: Function that gets the newly loaded models when they serve.
        timeout_s: Time that a request waits, in seconds. The reload goes on after it.
    """

    def __init__(
        self,
        settings: Settings,
        models: ServedModels,
        cache: Cache,
        inference: Inference,
        *,
        on_replaced: Callable[[Collection[ServedModel]], None],
        timeout_s: float = RELOAD_TIMEOUT_S,
    ) -> None:
        self._settings = settings
        self._models = models
        self._cache = cache
        self._inference = inference
        self._on_replaced = on_replaced
        self._timeout_s = timeout_s
        self._folders = ModelFolders.of(settings)
        # A thread of its own, which keeps its priority: the threads of the new decoders inherit it.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="edgesam-reload")
        self._task: asyncio.Task[Sequence[ModelChange]] | None = None

    async def reload(self, names: Sequence[str] | None) -> Sequence[ModelChange]:
        """Load models, and serve them instead of the present ones. A client that disconnects does not end the reload.

        Args:
            names: Names of the models to serve, the default first; None for those of the settings.

        Returns:
            What happened to each model, in the order in which they are served, and the removed models after them.

        Raises:
            ModelNotFound: There is no model of a name.
            ModelLoadFailed: A model cannot be served. The present models go on.
            ReloadInProgress: Another reload has not ended.
            DeadlineExceeded: The reload takes long, and goes on.
        """
        if self._task is not None and not self._task.done():
            raise ReloadInProgress(
                "Another reload has not ended. GET /models shows when it has, then repeat this request.",
                retry_after_s=1.0,
            )
        task = asyncio.create_task(self._reload(names), name="reload models")
        self._task = task  # that of another request, when this one goes on after the wait
        # The client may have disconnected when it ends. Its outcome is in the log in any case.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait({task}, timeout=self._timeout_s)
        if not done:
            raise DeadlineExceeded(
                f"Loading the models takes longer than {self._timeout_s:g} s. It goes on. GET /models shows the models "
                "that serve.",
                retry_after_s=self._timeout_s,
            )
        return task.result()

    async def aclose(self) -> None:
        """Let a reload in progress change nothing more. The process ends when the load of its current model has."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _reload(self, names: Sequence[str] | None) -> Sequence[ModelChange]:
        started = perf_counter()
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._executor, self._load, names)
        except UnknownModel as error:
            raise ModelNotFound(f"{error}. Nothing was changed.") from error
        except asyncio.CancelledError as error:
            raise NotReady("The service is stopping. Nothing was changed.", retry_after_s=1.0) from error
        except Exception as error:
            # Any error of a library may come from a damaged file, and the present models go on.
            logger.warning("reload failed", exc_info=error)
            raise ModelLoadFailed(f"{error}. Nothing was changed, and the present models go on.") from error
        changes = self._models.replace(
            [
                model
                if isinstance(model, ServedModel)
                else served_model(self._settings, model, self._cache, self._inference)
                for model in loaded
            ]
        )
        self._on_replaced([each.model for each in changes if each.model is not None and each.change != "kept"])
        summary = {change.name: change.change for change in changes}
        logger.info("reloaded", extra={"models": summary, "seconds": round(perf_counter() - started, 3)})
        return changes

    def _load(self, names: Sequence[str] | None) -> list[ServedModel | LoadedModel]:
        """Return the models to serve: those that have not changed, and the others newly loaded and warm. Blocking."""
        folders = self._folders
        directories = folders.configured() if names is None else [folders.folder(name) for name in names]
        check_together([load_manifest(directory) for directory in directories])
        models = [self._present(directory) or self._load_warm(directory) for directory in directories]
        check_together([model.runtime.manifest for model in models])  # a manifest may have been replaced meanwhile
        return models

    def _present(self, directory: Path) -> ServedModel | None:
        """Return the served model of an artifact that has not changed; None for another one."""
        sha256 = manifest_sha256(directory)
        return next((model for model in self._models.all if model.manifest_sha256 == sha256), None)

    def _load_warm(self, directory: Path) -> LoadedModel:
        model = load_model(self._settings, directory)
        with model.memory.measure():
            run_at_low_priority(model.runtime.warm_up)
        return model
