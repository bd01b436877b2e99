"""What Prometheus reads of the service: counts and times, nothing of users, studies' contents or patients."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The service's own registry; none of the process-wide one's."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gemel_service_requests",
            "Requests, by door and status.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "gemel_service_request_seconds", "Time of a request, by door.", ("path",), registry=self.registry
        )
        self.logins = Counter(
            "gemel_service_logins", "Attempts to sign in, by outcome.", ("outcome",), registry=self.registry
        )
        self.studies = Gauge("gemel_studies", "Studies, by state.", ("state",), registry=self.registry)
        self.runs_started = Counter(
            "gemel_runs_started", "Runs begun, the first and again.", ("attempt",), registry=self.registry
        )
        self.audit_entries = Gauge("gemel_audit_entries", "Entries of the audit log.", registry=self.registry)

    def render(self) -> bytes:
        """Prometheus' text form."""
        return generate_latest(self.registry)
