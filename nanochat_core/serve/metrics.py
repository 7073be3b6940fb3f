"""What /metrics tells Prometheus: waiting times, tokens, queue and rows of each model.

One registry per server, so that two servers in one process do not add up. Nothing here names a prompt or a user.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
INTER_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The series of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        both, model = ["path", "status"], ["model"]
        self.http = Counter("nanochat_http_requests", "Requests by route and status.", both, registry=self.registry)
        self._ttft = Histogram(
            "nanochat_time_to_first_token_seconds", "From the request to its first token, waiting included.", model,
            buckets=TTFT_S, registry=self.registry,
        )  # fmt: skip
        self._gap = Histogram(
            "nanochat_inter_token_seconds", "Between two tokens of one answer.", model,
            buckets=INTER_TOKEN_S, registry=self.registry,
        )  # fmt: skip
        self._counters = {
            name: Counter(f"nanochat_{name}", text, model, registry=self.registry)
            for name, text in (
                ("prompt_tokens", "Tokens of the prompts that were taken on."),
                ("generated_tokens", "Tokens of the answers, tool results included."),
                ("finished_requests", "Answers that came to their end."),
                ("cancelled_requests", "Answers that nobody waited for any more."),
                ("rejected_requests", "Requests refused because the queue was full."),
                ("failed_requests", "Answers that the engine's failure ended."),
            )
        }
        self._gauges = {
            name: Gauge(f"nanochat_{name}", text, model, registry=self.registry)
            for name, text in (
                ("queue_requests", "Requests that wait for a row."),
                ("running_requests", "Requests that hold a row."),
                ("rows", "Rows that the engine has."),
                ("model_ready", "1 when the model answers."),
            )
        }

    def of_model(self, model: str) -> "ModelMetrics":
        """The series of one model."""
        return ModelMetrics(
            ttft=self._ttft.labels(model),
            gap=self._gap.labels(model),
            counters={name: counter.labels(model) for name, counter in self._counters.items()},
            gauges={name: gauge.labels(model) for name, gauge in self._gauges.items()},
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class ModelMetrics:
    """Looked up once: `labels` costs more than counting."""

    def __init__(
        self, *, ttft: Histogram, gap: Histogram, counters: dict[str, Counter], gauges: dict[str, Gauge]
    ) -> None:
        self.ttft, self.gap = ttft, gap
        self._counters, self._gauges = counters, gauges

    def count(self, name: str, number: int = 1) -> None:
        self._counters[name].inc(number)

    def watch(self, name: str, value: Callable[[], float]) -> None:
        """Ask `value` whenever somebody reads the metrics."""
        self._gauges[name].set_function(value)
