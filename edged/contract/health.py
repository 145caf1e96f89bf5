"""The report that `R/health` carries. Pure.

To add a figure: a field with its `Figure` here, and in `monitoring/report.py` the code that measures it. The JSON, its
schema, Prometheus's metrics and Home Assistant's entities are made from these classes.
"""

from typing import Annotated, Any

from pydantic.json_schema import SkipJsonSchema

from edged.contract.figures import (
    BYTES,
    CELSIUS,
    MEBIBYTES,
    MILLISECONDS,
    PERCENT,
    REQUESTS,
    SECONDS,
    TOKENS_PER_SECOND,
    Entity,
    Figure,
    Metric,
    counter,
    gauge,
)
from edged.contract.schema import Count, Published, Time
from edged.contract.status import State


class ModelFigures(Published):
    """The model."""

    id: Annotated[str, Figure("The model's id.", metric=Metric("edged_model", "info"))]
    format: Annotated[str, Figure("The format of its weights.", metric=Metric("edged_model", "info"))]
    device: Annotated[str, Figure("The device that it runs on.", metric=Metric("edged_model", "info"))]
    threads: Annotated[Count, Figure("CPU threads that it runs on.", metric=gauge("edged_model_threads"))]
    parameters: Annotated[Count, Figure("Parameters of the model.", metric=gauge("edged_model_parameters"))]
    weight_bytes: Annotated[
        Count, Figure("Memory that its weights take.", unit=BYTES, metric=gauge("edged_model_weight_bytes"))
    ]
    load_s: Annotated[
        float, Figure("How long it took to load.", unit=SECONDS, metric=gauge("edged_model_load_seconds"))
    ]
    duty: Annotated[
        float,
        Figure(
            "Share of the time that it may run; below 1 while the box is hotter than engine.max_temperature.",
            metric=gauge("edged_model_duty_ratio"),
        ),
    ]


class QueueFigures(Published):
    """The requests in hand."""

    depth: Annotated[
        Count,
        Figure(
            "Requests in hand.",
            unit=REQUESTS,
            metric=gauge("edged_requests_waiting_or_running"),
            entities=(Entity("Queue"),),
        ),
    ]
    capacity: Annotated[
        Count, Figure("Requests that may be in hand.", unit=REQUESTS, metric=gauge("edged_queue_capacity"))
    ]
    oldest_age_s: Annotated[
        float | None,
        Figure("Age of the oldest request in hand.", unit=SECONDS, metric=gauge("edged_queue_oldest_age_seconds")),
    ]
    running: Annotated[Count, Figure("Sequences that the engine runs now.", metric=gauge("edged_sequences_running"))]


class RequestFigures(Published):
    """What happened to the requests since the start."""

    received: Annotated[Count, Figure("Messages that came as requests.", metric=counter("edged_requests_received"))]
    shared: Annotated[
        Count, Figure("Those of them that came by the queue of a group.", metric=counter("edged_requests_shared"))
    ]
    routed: Annotated[
        Count,
        Figure("Those of them that came by a route of the settings.", metric=counter("edged_requests_routed")),
    ]
    skipped: Annotated[
        Count,
        Figure(
            "Messages of a route that were no requests: its conditions did not hold, they were retained, or an answer "
            "of this daemon had led to them.",
            metric=counter("edged_requests_skipped"),
        ),
    ]
    answered: Annotated[
        Count,
        Figure(
            "Requests that got their result.",
            metric=counter("edged_requests_answered"),
            entities=(Entity("Answered"),),
        ),
    ]
    duplicates: Annotated[
        Count,
        Figure(
            "Requests answered from the journal, or together with the same request in hand.",
            metric=counter("edged_requests_duplicate"),
        ),
    ]
    redelivered: Annotated[
        Count, Figure("Messages that the broker sent again.", metric=counter("edged_requests_redelivered"))
    ]
    errors: Annotated[
        dict[str, Count],
        Figure(
            "Requests that got an error, by its code.",
            metric=counter("edged_requests_failed", label="code"),
            entities=(Entity("Errors"),),
        ),
    ]
    route_errors: Annotated[
        dict[str, Count],
        Figure(
            "Requests by routes that got an error, by the route; also counted in `errors`.",
            metric=counter("edged_route_requests_failed", label="route"),
        ),
    ]
    # Prometheus has these two by the label of the one above.
    expired: Annotated[Count, Figure("Requests whose time was over; also counted in `errors`.")]
    cancelled: Annotated[Count, Figure("Requests that were cancelled; also counted in `errors`.")]


class Quantiles(Published):
    """Quantiles of the last five minutes; null where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


class LatencyFigures(Published):
    """Times of the requests, from their receipt, over the last five minutes."""

    total: Annotated[
        Quantiles,
        Figure(
            "From receipt to the result.",
            unit=MILLISECONDS,
            metric=gauge("edged_request_duration_seconds", label="quantile"),
            entities=(Entity("Latency p50", of="p50"), Entity("Latency p95", of="p95")),
        ),
    ]
    queue: Annotated[
        Quantiles,
        Figure(
            "From receipt to the start of the work.",
            unit=MILLISECONDS,
            metric=gauge("edged_request_queue_seconds", label="quantile"),
        ),
    ]
    first_token: Annotated[
        Quantiles,
        Figure(
            "From receipt to the first token of a reply.",
            unit=MILLISECONDS,
            metric=gauge("edged_request_first_token_seconds", label="quantile"),
            entities=(Entity("First token p50", of="p50"),),
        ),
    ]
    sentiment: Annotated[
        Quantiles,
        Figure(
            "From receipt to the sentiment.",
            unit=MILLISECONDS,
            metric=gauge("edged_request_sentiment_seconds", label="quantile"),
        ),
    ]


class TokenFigures(Published):
    """Tokens: totals since the start, and rates over the last five minutes."""

    prompt_total: Annotated[
        Count, Figure("Prompt tokens of all requests, cached ones included.", metric=counter("edged_prompt_tokens"))
    ]
    cached_total: Annotated[
        Count, Figure("Prompt tokens that came from the prefix cache.", metric=counter("edged_cached_tokens"))
    ]
    completion_total: Annotated[Count, Figure("Tokens that were generated.", metric=counter("edged_completion_tokens"))]
    prompt_per_s: Annotated[
        float,
        Figure(
            "Prompt tokens computed, over five minutes.",
            unit=TOKENS_PER_SECOND,
            metric=gauge("edged_prompt_tokens_per_second"),
        ),
    ]
    completion_per_s: Annotated[
        float,
        Figure(
            "Tokens generated, over five minutes.",
            unit=TOKENS_PER_SECOND,
            metric=gauge("edged_completion_tokens_per_second"),
            entities=(Entity("Tokens per second"),),
        ),
    ]
    batch_mean: Annotated[
        float | None,
        Figure("Mean rows of a step of the engine, since the start.", metric=gauge("edged_batch_rows_mean")),
    ]


class CacheFigures(Published):
    """The prefix cache."""

    prefix_hits: Annotated[
        Count, Figure("Prompts that found a prefix of theirs in the cache.", metric=counter("edged_prefix_cache_hits"))
    ]
    prefix_misses: Annotated[
        Count, Figure("Prompts that found no prefix in the cache.", metric=counter("edged_prefix_cache_misses"))
    ]
    bytes: Annotated[
        Count, Figure("Memory that the prefix cache takes.", unit=BYTES, metric=gauge("edged_prefix_cache_bytes"))
    ]
    capacity: Annotated[
        Count,
        Figure("Memory that the prefix cache may take.", unit=BYTES, metric=gauge("edged_prefix_cache_capacity_bytes")),
    ]


class MqttFigures(Published):
    """The connection to the broker."""

    connected_since: Annotated[
        Time | None,
        Figure(
            "When the connection was made; null while there is none.", metric=Metric("edged_mqtt_connected", "presence")
        ),
    ]
    reconnects: Annotated[
        Count,
        Figure(
            "Connections to the broker after the first.",
            metric=counter("edged_mqtt_reconnects"),
            entities=(Entity("Reconnects"),),
        ),
    ]
    unacked: Annotated[
        Count,
        Figure("Messages that came and are not acknowledged yet.", metric=gauge("edged_mqtt_unacked_messages")),
    ]
    outbox: Annotated[
        Count,
        Figure(
            "Messages to be sent that the broker has not confirmed yet.", metric=gauge("edged_mqtt_outbox_messages")
        ),
    ]
    protocol: Annotated[str | None, Figure("The version of MQTT; null while there is no connection.")]


class SystemFigures(Published):
    """The box; null for what it does not tell."""

    cpu_percent: Annotated[
        float | None,
        Figure(
            "CPU of the whole box in use, since the report before.",
            unit=PERCENT,
            metric=gauge("edged_system_cpu_ratio"),
            entities=(Entity("CPU"),),
        ),
    ]
    load: Annotated[float | None, Figure("The box's load, mean of one minute.", metric=gauge("edged_system_load1"))]
    memory_rss_mb: Annotated[
        float | None,
        Figure(
            "Memory of the daemon.",
            unit=MEBIBYTES,
            metric=gauge("edged_process_resident_memory_bytes"),
            entities=(Entity("Memory"),),
        ),
    ]
    memory_available_mb: Annotated[
        float | None,
        Figure("Memory free for use.", unit=MEBIBYTES, metric=gauge("edged_system_memory_available_bytes")),
    ]
    temperature_c: Annotated[
        float | None,
        Figure(
            "Temperature of the processor.",
            unit=CELSIUS,
            metric=gauge("edged_system_temperature_celsius"),
            entities=(Entity("Temperature", is_optional=True),),
        ),
    ]
    throttled: Annotated[
        bool | None,
        Figure(
            "Whether the board slows itself down.",
            metric=gauge("edged_system_throttled"),
            entities=(Entity("Throttled", device_class="problem", is_optional=True),),
        ),
    ]
    disk_free_mb: Annotated[
        float | None,
        Figure(
            "Free space of the disk with the journal.",
            unit=MEBIBYTES,
            metric=gauge("edged_system_disk_free_bytes"),
            entities=(Entity("Disk free"),),
        ),
    ]
    disk_written_mb: Annotated[
        float | None,
        Figure(
            "What the daemon has had written to disks since its start, without the file system's own records.",
            unit=MEBIBYTES,
            metric=counter("edged_process_disk_written_bytes"),
        ),
    ]
    disk_written_mb_per_day: Annotated[
        float | None,
        Figure(
            "The same for a day, at the mean rate since the start; null in the first hour.",
            unit=MEBIBYTES,
            metric=gauge("edged_process_disk_written_per_day_bytes"),
        ),
    ]


class ProbeFigures(Published):
    """The last proof that the engine can decode: a probe's token, or a request's."""

    ok: Annotated[bool, Figure("Whether the last try to decode a token did.", metric=gauge("edged_probe_success"))]
    age_s: Annotated[
        float,
        Figure(
            "Time since that try or since a request's token.", unit=SECONDS, metric=gauge("edged_probe_age_seconds")
        ),
    ]
    ms: Annotated[
        float | None,
        Figure("How long the last probe took.", unit=MILLISECONDS, metric=gauge("edged_probe_duration_seconds")),
    ]


class GroupFigures(Published):
    """The group of boxes that this one shares a queue with."""

    name: Annotated[str, Figure("The group's name.")]
    shards: Annotated[
        tuple[str, ...] | SkipJsonSchema[None], Figure("The parts of the group's work that this box takes.")
    ] = None
    takes: Annotated[bool, Figure("Whether it takes work of the group now.")]
    keeps: Annotated[bool, Figure("Whether it takes work even if it has enough already; the other boxes rely on that.")]
    window: Annotated[int, Figure("Requests in hand above which it leaves work to the others.", unit=REQUESTS)]
    speed: Annotated[int | SkipJsonSchema[None], Figure("Answers a second, as a power of two.")] = None
    pauses: Annotated[Count, Figure("How many times it left the work to the others.")]
    members: Annotated[tuple[str, ...], Figure("The other boxes that it knows to be there.")]
    receive_maximum: Annotated[
        int | SkipJsonSchema[None],
        Figure("Requests that the broker may have at this box at a time, as this connection announced it (MQTT 5)."),
    ] = None

    def body(self) -> dict[str, Any]:
        """As JSON; a figure without a value is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class SenderFigures(Published):
    """The senders that took the most tokens, at most 20; each figure by the sender's name (see `limits.sender`)."""

    requests: Annotated[
        dict[str, Count],
        Figure("Requests that came.", metric=counter("edged_sender_requests", label="sender")),
    ]
    refused: Annotated[
        dict[str, Count],
        Figure(
            "Requests that were over a limit of their sender; also counted in `errors`.",
            metric=counter("edged_sender_requests_refused", label="sender"),
        ),
    ]
    tokens: Annotated[
        dict[str, Count],
        Figure("Tokens that were computed for it.", metric=counter("edged_sender_tokens", label="sender")),
    ]
    in_hand: Annotated[
        dict[str, Count],
        Figure("Requests without an answer yet.", metric=gauge("edged_sender_requests_in_hand", label="sender")),
    ]


class HealthReport(Published):
    """The daemon's figures."""

    state: Annotated[State, Figure("The state that the daemon is in.", metric=Metric("edged_state", "states", "state"))]
    reasons: Annotated[tuple[str, ...], Figure("Why it is not fully well, in words.")]
    uptime_s: Annotated[
        float, Figure("Time since the start of the process.", unit=SECONDS, metric=gauge("edged_uptime_seconds"))
    ]
    boot_id: Annotated[str, Figure("Names this start of the daemon.")]
    version: Annotated[str, Figure("The daemon's version.", metric=Metric("edged_build", "info"))]
    time: Annotated[
        # Home Assistant shows a timestamp as "5 minutes ago", so the report has the time and not its age.
        Time, Figure("When the report was made.", entities=(Entity("Last report", device_class="timestamp"),))
    ]
    model: ModelFigures | None
    queue: QueueFigures
    requests: RequestFigures
    latency_ms: LatencyFigures
    tokens: TokenFigures
    senders: SenderFigures
    cache: CacheFigures
    mqtt: MqttFigures
    system: SystemFigures
    probe: ProbeFigures | None
    group: GroupFigures | SkipJsonSchema[None] = None

    def body(self) -> dict[str, Any]:
        """The report as JSON; without a group it has no such key."""
        group = {} if self.group is None else {"group": self.group.body()}
        return self.model_dump(mode="json", exclude={"group"}) | group
