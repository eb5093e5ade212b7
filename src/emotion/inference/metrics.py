"""Counts what the HTTP service does, for Prometheus."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

import emotion

BATCHES = (0, 1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of the service, each by network.

    Requests for a network that does not exist have an empty network.

    Args:
        networks: names of the networks, whose counters begin at 0.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        # Series that say when a counter was made, one for each counter.
        disable_created_metrics()
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("emotion_requests", "Requests", ["network", "status"], registry=registry)
        self.faces = Counter("emotion_faces", "Classified faces", ["network"], registry=registry)
        self.seconds = Histogram("emotion_seconds", "Seconds to an answer", ["network"], registry=registry)
        self.batches = Histogram(
            "emotion_batch_faces", "Faces in a call of the network", ["network"], buckets=BATCHES, registry=registry
        )
        for name in networks:
            for metric in (self.faces, self.seconds, self.batches):
                metric.labels(name)
        Gauge("emotion_build_info", "1", ["version"], registry=registry).labels(emotion.__version__).set(1)

    def text(self) -> bytes:
        """Returns all values in the text format of Prometheus."""
        return generate_latest(self._registry)
