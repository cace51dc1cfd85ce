"""A Prometheus registry with helpers that declare metrics and remember their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricRegistry:
    """A separate registry with the process, platform and gc collectors.

    `label_names`: name as declared, such as `connector_requests` → names of its labels.
    """

    def __init__(self) -> None:
        disable_created: Callable[[], None] = disable_created_metrics  # has no type hints
        disable_created()
        self.registry = CollectorRegistry()
        self.label_names: dict[str, tuple[str, ...]] = {}
        self.registry.register(PLATFORM_COLLECTOR)
        self.registry.register(GC_COLLECTOR)
        ProcessCollector(registry=self.registry)

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        """Declare `connector_{name}`."""
        return Counter(self._declare(name, labels), help, labels, registry=self.registry)

    def gauge(self, name: str, help: str, *labels: str) -> Gauge:
        """Declare `connector_{name}`."""
        return Gauge(self._declare(name, labels), help, labels, registry=self.registry)

    def histogram(
        self,
        name: str,
        help: str,
        *labels: str,
        buckets: Sequence[float] = Histogram.DEFAULT_BUCKETS,
    ) -> Histogram:
        """Declare `connector_{name}`."""
        full_name = self._declare(name, labels)
        return Histogram(full_name, help, labels, buckets=buckets, registry=self.registry)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _declare(self, name: str, labels: tuple[str, ...]) -> str:
        full_name = f"connector_{name}"
        self.label_names[full_name] = labels
        return full_name
