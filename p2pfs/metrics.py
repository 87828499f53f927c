"""Every metric that a node counts, one row each. `METRICS` prints them; docs/OPERATIONS.md explains them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

REGISTRY = CollectorRegistry()
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that tells only when the process began


def _counter(name: str, help: str, *labels: str) -> Counter:
    return Counter(f"p2pfs_{name}", help, labels, registry=REGISTRY)


def _gauge(name: str, help: str, *labels: str) -> Gauge:
    return Gauge(f"p2pfs_{name}", help, labels, registry=REGISTRY)


CONNECTIONS = _gauge("connections", "Connections that this node accepted and that are open")
CONNECTIONS_REFUSED = _counter(
    "refused_connections", "Connections that this node closed before it served them, by docs/LIMITS.md", "why"
)
REQUESTS = _counter("requests", "Requests answered, by verb and by OK or the error's token", "verb", "outcome")
GREENLET_FAILURES = _counter("greenlet_failures", "Exceptions that reached the top of a greenlet or a worker's step")
BLOCKS_WRITTEN = _counter("blocks_written", "Blocks made durable on this node's disk")
BYTES_WRITTEN = _counter("bytes_written", "Bytes of blocks made durable on this node's disk")
BLOCKS_SENT = _counter("blocks_sent", "Blocks put to other nodes", "outcome")
BLOCKS_FETCHED = _counter("blocks_fetched", "Blocks got from other nodes", "outcome")
BLOCKS_CORRUPT = _counter("blocks_corrupt", "Blocks read here or got from a peer whose bytes did not match their name")
HEDGES = _counter("hedges", "Second holders asked because the first was slow or failed")
BLOCKS_SCRUBBED = _counter("scrubbed_blocks", "Blocks on this disk that the scrub read and found good")
BYTES_SCRUBBED = _counter("scrubbed_bytes", "Bytes of blocks that the scrub read and found good")
BLOCKS_REPAIRED = _counter("blocks_repaired", "Blocks that the audit fetched because this node should hold them")
BYTES_REPAIRED = _counter("bytes_repaired", "Bytes of blocks that the audit fetched")
BLOCKS_GIVEN_UP = _counter("blocks_given_up", "Blocks that the audit dropped because all their owners hold them")
BLOCKS_COLLECTED = _counter("blocks_collected", "Blocks that the audit dropped because no pin wants them")
AUDITS = _counter("audits", "Comparisons of the whole catalog with this node's disk that were completed")
AUDIT_END = _gauge("audit_end_seconds", "Unix time at which the last comparison was complete")
LEFT_BYTES = _gauge("left_bytes", "Bytes that this node should hold and has still to fetch")
BELOW_BLOCKS = _gauge("below_blocks", "Blocks in this node's charge with fewer reachable copies than wanted")
LOST_BLOCKS = _gauge("lost_blocks", "Blocks in this node's charge that no member has")
MEMBERS = _gauge("members", "Members that this node knows, by state", "state")
PINS = _gauge("pins", "Pins in the catalog, tombstones left out")
STORED_BYTES = _gauge("stored_bytes", "Bytes of blocks on this node's disk")
FREE_BYTES = _gauge("free_bytes", "Bytes that may still be stored: by the disk, max_size and reserve_free")
QUARANTINED = _gauge("quarantined_blocks", "Files in the quarantine folder")
SCRUB_OLDEST = _gauge(
    "scrub_oldest_seconds", "No block on this disk was verified longer ago than this; +Inf: unknown"
)


def render() -> bytes:
    """All metrics in Prometheus text format."""
    return generate_latest(REGISTRY)
