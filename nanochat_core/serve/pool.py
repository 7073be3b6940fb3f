"""The models of one server: loaded one after the other in a thread, found by name, and whether they are well.

The server answers from its first moment: a model that is still loading is a 503 with the reason, not a refused
connection, so that a client or an orchestrator can tell "soon" from "never".
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat_core.base.errors import ConfigError, NanochatError
from nanochat_core.pipeline.models import CHAT_SUFFIX
from nanochat_core.serve.catalogue import Listed, ModelCard, look_up
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.lane import Lane
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.metrics import Metrics
from nanochat_core.serve.scheduler import Scheduler
from nanochat_core.store.store import Store

if TYPE_CHECKING:
    from nanochat_core.inference.engine import Engine

log = logging.getLogger(__name__)
LOADING_RETRY_S = 5.0


@dataclass(frozen=True)
class Health:
    """What /health says. `reason` is None when every model answers."""

    reason: str | None
    models: dict[str, str]
    """Model -> ready, loading or the failure."""


class ServedModel:
    """A model, and once it is loaded the scheduler that runs it."""

    def __init__(self, card: ModelCard, load: "Callable[[], Engine]") -> None:
        self.card, self.load = card, load
        self.scheduler: Scheduler | None = None
        self.problem: str | None = None
        """Why it could not be loaded."""

    @property
    def state(self) -> str:
        if self.problem is not None:
            return f"failed: {self.problem}"
        if self.scheduler is None:
            return "loading"
        return "ready" if self.scheduler.failure is None else f"failed: {self.scheduler.failure}"


class ModelPool:
    """Several models by name; the first one is meant where a request names none."""

    def __init__(
        self, models: Sequence[ServedModel], *, limits: Limits | None = None, may_be_empty: bool = False
    ) -> None:
        if not models and not may_be_empty:
            raise ConfigError("a server without models", hint="name one: nanochat serve tiny-chat")
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.models = {model.card.id: model for model in models}
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self.lane = Lane(max_bytes=self.limits.max_unfinished_bytes, is_missed=self._is_missed)

    def _is_missed(self) -> bool:
        return any(model.scheduler is not None and model.scheduler.is_missed for model in self.models.values())

    @classmethod
    def from_store(
        cls,
        store: Store,
        names: Sequence[str],
        *,
        device: str = "auto",
        dtype: str = "auto",
        limits: Limits | None = None,
        may_be_empty: bool = False,
    ) -> "ModelPool":
        """The models of these refs (none: the newest chat model and its base). MissingError names what is not there.

        `may_be_empty`: a store without any model is served as well, for its data.
        """

        def model(listed: Listed) -> ServedModel:
            return ServedModel(listed.card, lambda: _engine(store, listed, device=device, dtype=dtype))

        is_empty = may_be_empty and not names and not any(ref.name.endswith(CHAT_SUFFIX) for ref in store.refs())
        found = [] if is_empty else look_up(store, names)
        return cls([model(listed) for listed in found], limits=limits, may_be_empty=may_be_empty)

    def start(self) -> None:
        """Load in the background."""
        self._thread = threading.Thread(target=self._load_all, name="loading", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> None:
        """Until everything is loaded, or has failed to."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    def close(self) -> None:
        """Stop every engine; answers that are still running end with an error."""
        self._is_closing = True
        for model in self.models.values():
            if model.scheduler is not None:
                model.scheduler.close(timeout_s=self.limits.shutdown_s)

    def _load_all(self) -> None:
        for model in self.models.values():
            if self._is_closing:
                return
            started = time.monotonic()
            series = self.metrics.of_model(model.card.id)
            series.watch("model_ready", lambda model=model: float(model.state == "ready"))  # type: ignore[misc]
            try:
                scheduler = Scheduler(model.card.id, model.load(), limits=self.limits, metrics=series)
            except Exception as error:  # a model that cannot be loaded must not keep the others from it
                log.exception("%s could not be loaded", model.card.id)
                model.problem = (
                    error.message if isinstance(error, NanochatError) else f"{type(error).__name__}: {error}"
                )
                continue
            scheduler.start()
            model.scheduler = scheduler
            if self._is_closing:  # `close` may have looked before there was anything to stop
                scheduler.close(timeout_s=self.limits.shutdown_s)
            log.info("%s is loaded, %.1f s", model.card.ref, time.monotonic() - started)

    def find(self, name: str | None) -> ServedModel:
        """The model of a request; ApiError 404 where no model has that name."""
        if not self.models:
            raise ApiError(404, "this server has no model, only data", param="model", code="model_not_found")
        if not name:
            return next(iter(self.models.values()))
        found = self.models.get(name) or next((m for m in self.models.values() if m.card.ref == name), None)
        if found is None:
            # the name itself may hold anything and is not repeated
            known = ", ".join(self.models)
            raise ApiError(404, f"there is no such model here; there is {known}", param="model", code="model_not_found")
        return found

    def ready(self, name: str | None) -> tuple[ModelCard, Scheduler]:
        """A model that answers; ApiError 503 while it is loading or when it has failed."""
        model = self.find(name)
        if model.scheduler is None or model.scheduler.failure is not None:
            retry = LOADING_RETRY_S if model.state == "loading" else None
            code = "model_loading" if retry else "model_failed"
            raise ApiError(503, f"{model.card.id} does not answer: {model.state}", code=code, retry_after_s=retry)
        return model.card, model.scheduler

    def health(self) -> Health:
        """Whether every model answers."""
        states = {name: model.state for name, model in self.models.items()}
        bad = [f"{name}: {state}" for name, state in states.items() if state != "ready"]
        return Health("; ".join(bad) or None, states)


def _engine(store: Store, listed: Listed, *, device: str, dtype: str) -> "Engine":
    """Read the weights and put them where they are to run."""
    from nanochat_core.base.hardware import pick_device, pick_dtype
    from nanochat_core.inference.engine import Engine
    from nanochat_core.model.weights import check_finite, load_model
    from nanochat_core.pipeline.models import fetch
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    where = pick_device(device)
    model = load_model(fetch(store, listed.stored.artifact, "model.safetensors", "config.json"))
    check_finite(model, name=listed.card.ref)
    tokenizer = Tokenizer.load(fetch(store, listed.stored.tokenizer, "tokenizer.json"))
    model.to(where)
    model.compute_dtype = pick_dtype(dtype, where)
    return Engine(model, tokenizer)
