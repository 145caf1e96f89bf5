"""Every setting, its meaning, its default and what is allowed. Pure: reads no environment and no file.

`load.py` fills it; each part of the program gets only the settings that it needs.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from edged.contract.senders import SenderRule
from edged.contract.topics import is_publishable
from edged.settings import routes as route_settings
from edged.settings.http import HttpSettings
from edged.settings.values import FROM_ROOT, HTTP, NAME, Section, UserPath, at_home, checked_host, header_key
from edged.tasks.own import TaskName, TaskSettings, tasks_of
from edged.tasks.text import Language

_SESSION_EXPIRY = 7 * 86400  # seconds
_GROUP_SESSION_EXPIRY = 30
_QUEUE = 1000  # requests
_GROUP_QUEUE = 64


class TlsSettings(Section):
    """TLS towards the broker. `ca` alone turns it on; `cert` and `key` add a client certificate."""

    enabled: bool = Field(False, description="Speak TLS with the system's certificate authorities.")
    ca: UserPath | None = Field(None, description="File of the certificate authorities to trust; turns TLS on.")
    cert: UserPath | None = Field(None, description="Our certificate, for brokers that ask for one.")
    key: UserPath | None = Field(None, description="The private key of `cert`.")
    key_password: SecretStr | None = Field(
        None,
        description="Passphrase of `key`, if it has one; better given as the systemd credential mqtt_tls_key_password.",
    )
    strict: bool = Field(
        True,
        description="false accepts what Python from 3.13 on refuses, such as an authority without key usage.",
    )

    @property
    def is_on(self) -> bool:
        return self.enabled or self.ca is not None or self.cert is not None

    @model_validator(mode="after")
    def _pair(self) -> "TlsSettings":
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key are given together")
        return self


def _split(value: object) -> object:
    """In the environment a list is JSON, or text with commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return tuple(each.strip() for each in value.split(","))


class MqttSettings(Section):
    """The broker and how to speak to it."""

    host: str = Field(
        "localhost", min_length=1, description="Host name or address; with transport unix, the socket's path."
    )
    port: int | None = Field(None, ge=1, le=65535, description="Port; default 1883, with TLS 8883, websockets 9001.")
    transport: Literal["tcp", "websockets", "unix"] = Field("tcp", description="How the broker is reached.")
    websocket_path: str = Field("/mqtt", pattern=FROM_ROOT, description="Path of the WebSocket endpoint.")
    protocol: Literal["auto", "5", "3.1.1"] = Field("auto", description="MQTT version; auto tries 5, then 3.1.1.")
    username: str | None = Field(None, description="User name at the broker.")
    password: SecretStr | None = Field(
        None, description="Password; better given as the systemd credential mqtt_password."
    )
    client_id: str | None = Field(None, min_length=1, max_length=128, description="Default: edged-<prefix>-<node>.")
    keepalive: int = Field(30, ge=5, le=3600, description="Seconds between signs of life on an idle connection.")
    session_expiry: int | None = Field(
        None,
        ge=0,
        le=0xFFFFFFFE,
        description="Seconds the broker keeps our session and its queue while we are away (MQTT 5). Default: a week; "
        "in a group half a minute, because the broker does not give a dead box's requests to others before.",
    )
    share_group: Annotated[str, Field(max_length=128, pattern=NAME)] | None = Field(
        None, description="The group whose work this box shares: requests at <prefix>/<group>/in/…"
    )
    shards: tuple[Annotated[str, Field(max_length=128, pattern=NAME)], ...] = Field(
        (), description="Parts of a sharded group's work that this box takes: <prefix>/<group>/in/<shard>/…"
    )
    will_delay: int = Field(5, ge=0, le=3600, description="Seconds before a lost connection shows as offline (MQTT 5).")
    tls: TlsSettings = TlsSettings()
    reply_topics: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Topic filters: a Response Topic or reply_to must match one of them. Default: <prefix>/#."
    )
    outbox: int = Field(1000, ge=10, le=1_000_000, description="Answers that may wait for the broker.")

    @field_validator("host")
    @classmethod
    def _bare(cls, host: str, info: ValidationInfo) -> str:
        # A password in an address would be shown with the address in logs and errors.
        if "://" in host or "@" in host:
            raise ValueError("only the name; mqtt.transport, port, username and password say the rest of an address")
        if "/" in host or host.startswith("~"):  # the path of a socket
            return str(at_home(Path(host), info))
        return checked_host(host)

    @field_validator("reply_topics", "shards", mode="before")
    @classmethod
    def _split(cls, filters: object) -> object:
        return _split(filters)

    @field_validator("share_group", "shards", mode="after")
    @classmethod
    def _in_topics(cls, names: "str | tuple[str, ...] | None") -> "str | tuple[str, ...] | None":
        for each in (names,) if isinstance(names, str) else names or ():
            if not is_publishable(each):  # brokers close the connection of a client that subscribes to such a topic
                raise ValueError("a name in topics has no control characters and no non-characters of Unicode")
        return names

    @field_validator("reply_topics", mode="after")
    @classmethod
    def _filters(cls, filters: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for each in filters or ():
            levels = each.split("/")
            bad = not each or "#" in levels[:-1] or any(len(lv) > 1 and ("#" in lv or "+" in lv) for lv in levels)
            if bad or "\0" in each or each.startswith("$"):
                raise ValueError(f"{each!r} is no topic filter: '+' and '#' stand alone in a level, '#' only last")
        return filters

    @model_validator(mode="after")
    def _shards_are_of_a_group(self) -> "MqttSettings":
        if self.shards and self.share_group is None:
            raise ValueError("shards are parts of a group's work: set share_group too")
        return self

    @property
    def resolved_session_expiry(self) -> int:
        """The session expiry in force, in seconds."""
        if self.session_expiry is not None:
            return self.session_expiry
        return _SESSION_EXPIRY if self.share_group is None else _GROUP_SESSION_EXPIRY

    @property
    def resolved_port(self) -> int:
        """The port in force."""
        if self.port is not None:
            return self.port
        if self.transport == "websockets":
            return 9001
        return 8883 if self.tls.is_on else 1883


class ModelSettings(Section):
    """The one model."""

    backend: Literal["local", "remote"] = Field(
        "local", description="remote asks an OpenAI-compatible server (llama-server, vLLM, Ollama) at url."
    )
    url: str | None = Field(None, pattern=HTTP, description="Where that server's API begins: http://host:8080/v1")
    api_key: SecretStr | None = Field(
        None, description="Its key, if it wants one; better given as the systemd credential model_api_key."
    )
    timeout: float = Field(60.0, gt=0, le=3600, description="Seconds that the server may be silent.")
    retries: int = Field(3, ge=0, le=20, description="How often a request is repeated after a fault of the server.")
    proxy: Literal["auto", "environment", "none"] = Field(
        "auto",
        description="Whether requests to the server go through the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: auto "
        "uses it unless the server is on this box or in a private network.",
    )
    id: str = Field(
        "Qwen/Qwen1.5-0.5B-Chat",
        min_length=1,
        description="A preset, a hub id, a folder, or a GGUF file; the server's name for it where that is remote "
        "(default there: the first that it has).",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU where there is one.")
    format: Literal["auto", "fp32", "bf16", "fp16", "int8", "int4"] = Field(
        "auto",
        description="How weights are held: auto is int8 on a CPU and bf16 or fp16 on a GPU; int4 is faster and less "
        "exact.",
    )

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        return header_key(key)

    @field_validator("url")
    @classmethod
    def _without_slash(cls, url: str | None) -> str | None:
        return None if url is None else url.rstrip("/")

    @model_validator(mode="after")
    def _has_a_server(self) -> "ModelSettings":
        if (self.backend == "remote") != (self.url is not None):
            raise ValueError('backend = "remote" and url are given together')
        return self


class EngineSettings(Section):
    """Limits of the engine; memory is planned from them at the start."""

    threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="CPU threads for the model; 0 takes every large core, within affinity and CPU quota.",
    )
    kernels: Literal[
        "auto", "torch", "avx512vnni", "avx512", "avxvnni", "avx2", "ssse3", "i8mm", "dotprod", "neon", "portable"
    ] = Field(
        "auto",
        description="auto multiplies int8 and int4 by compiled kernels for the best instructions of this CPU, torch by "
        "torch's own; the others are sets of instructions, for tests.",
    )
    max_temperature: float | None = Field(
        None,
        ge=30,
        le=120,
        description="Degrees Celsius of the processor above which the model pauses for a share of the time.",
    )
    max_batch: int = Field(8, ge=1, le=256, description="Sequences that run side by side.")
    max_context_tokens: int = Field(
        2048, ge=128, le=131072, description="Prompt and reply together; older turns are dropped."
    )
    max_new_tokens: int = Field(128, ge=1, le=32768, description="Longest reply; a request may ask for a shorter one.")
    prefill_chunk_tokens: int = Field(
        256, ge=16, le=8192, description="Prompt tokens of one step; bounds the stall of running replies."
    )
    kv_mb: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Memory for the KV of running sequences; 0 takes what max_batch full contexts need, "
        "at most a quarter of the free memory.",
    )
    prefix_cache_mb: int = Field(
        256, ge=0, le=1_000_000, description="Memory for the KV of prompt prefixes and conversations."
    )
    keep_cache_mb: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Size of the file in which the KV of conversations outlives an orderly restart, so that their next "
        "turn is quick; 0: none is kept. The file has users' words, is for the daemon's user alone, and is deleted at "
        "the start. For a bundle on compiled kernels, with journal.keep_text and without journal.url.",
    )
    memory_mb: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Memory of the whole daemon, weights included: the KV of running sequences takes what it needs of "
        "it, and the prefix cache the rest. 0: as the other settings have it. `edged check` tells what is needed.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "EngineSettings":
        if self.max_new_tokens >= self.max_context_tokens:
            raise ValueError("max_new_tokens must be below max_context_tokens: the prompt needs room too")
        return self


class QueueSettings(Section):
    """The daemon's own queue; more requests wait at the broker."""

    capacity: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Requests in hand; also our Receive Maximum at the broker (in a group less for a slow box). "
        "Default: 1000, so that one sender's many do not hold up another's one at the broker; in a group 64.",
    )


class LimitSettings(Section):
    """Limits of a request, and of what one sender may take."""

    payload_bytes: int = Field(65536, ge=64, le=268_435_455, description="Largest request payload.")
    text_chars: int = Field(8000, ge=1, le=10_000_000, description="Longest text, in characters.")
    sender: str = Field(
        "session",
        description="What tells senders apart, who take turns by tokens: session, topic[N] (a level of the topic, "
        "counted from 0), or property NAME (a user property of MQTT 5); where a request lacks it, the topic of its "
        "answer.",
    )
    requests_per_minute: int = Field(
        0, ge=0, le=1_000_000, description="Requests of one sender; beyond, it is answered busy. 0: any number."
    )
    tokens_per_day: int = Field(
        0,
        ge=0,
        le=10**12,
        description="Tokens that may be computed for one sender in 24 hours. 0: any number.",
    )
    hide_senders: bool = Field(False, description="Show hashes instead of the names of senders in R/health.")

    @field_validator("sender")
    @classmethod
    def _readable(cls, sender: str) -> str:
        SenderRule.parse(sender)
        return sender


class SessionSettings(Section):
    """Whose sessions are. Where they belong to users, nobody can read or continue another's."""

    owner: Literal["none", "topic", "user_property"] = Field(
        "none",
        description="topic: a session belongs to the user whose name stands below the task, R/in/<task>/<user>; the "
        "broker's access list holds users to their own topics. user_property: to the user that owner_property names.",
    )
    owner_property: str = Field(
        "username", min_length=1, max_length=128, description="A user property that the broker adds to each message."
    )


class ModelsSettings(Section):
    """Where models may come from that are fetched over MQTT, and when one that is switched to is refused."""

    canary: UserPath | None = Field(
        None,
        description="A file of texts with their sentiment, a tab between them, by which a new model is held against "
        "the one in use. Default: 40 texts for each language.",
    )
    canary_margin: float = Field(
        0.05, ge=0, le=1, description="The share of right labels by which a new model may be worse."
    )
    canary_slowest: float = Field(
        2.0, ge=1, le=100, description="How many times as long a new model may take for a text."
    )
    sources: tuple[Annotated[str, Field(pattern=r"^https?://[^/@]+/(.*/)?$")], ...] = Field(
        (),
        description="Beginnings of URLs, each with a / at its end, from which R/request/model may fetch bundles; "
        "without any, it fetches none.",
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _split(cls, sources: object) -> object:
        return _split(sources)


class HealthSettings(Section):
    """How often health is reported, and what counts as a fault."""

    interval: float = Field(30.0, ge=1, le=3600, description="Seconds between reports on R/health.")
    probe_interval: float = Field(
        60.0, ge=1, le=3600, description="Seconds without a decoded token after which one is decoded as a probe."
    )
    stall_after: float = Field(
        60.0, ge=1, le=3600, description="Seconds without progress, with work in hand, that count as a stall."
    )


class JournalSettings(Section):
    """The record of results and conversations."""

    url: SecretStr | None = Field(
        None,
        description="redis://…, rediss://… or unix://…: a Redis server that the boxes of a group share, instead of a "
        "file of this box's own; better given as the systemd credential journal_url.",
    )
    keep_hours: float = Field(24.0, gt=0, le=8784, description="Hours that a result is kept for repeated requests.")
    session_hours: float = Field(168.0, gt=0, le=87840, description="Hours that a silent conversation is kept.")
    max_mb: int = Field(256, ge=8, le=1_000_000, description="Size of the database; the oldest results go first.")
    keep_text: bool = Field(
        True, description="false keeps no text: repeated requests run again, sessions have no history."
    )
    commit_ms: int = Field(
        0,
        ge=0,
        le=60_000,
        description="Milliseconds that an answer waits for others, so that one write to the disk records all of them. "
        "Answers and acks wait with it, so nothing is lost; SD cards and other flash live longer.",
    )
    sync: Literal["full", "normal"] = Field(
        "full",
        description="full: an answer that was acked survives a power cut. normal: far fewer flushes to the disk, and a "
        "power cut may take the record of the last answers: a repeat of such a request runs again, and its "
        "conversation lacks those turns. The file stays whole either way.",
    )


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="User text shows only at debug.")
    mqtt: Literal["off", "error", "warning", "info"] = Field(
        "off", description="Publish what is logged at R/log too, from this level on; never user text."
    )
    format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: colours on a terminal, JSON elsewhere."
    )


class MetricsSettings(Section):
    """`/metrics` for Prometheus: the figures of R/health over HTTP."""

    port: int = Field(0, ge=0, le=65535, description="Port to listen at, 9464 say; 0 listens nowhere.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen at; it is served without a password.")

    @field_validator("host")
    @classmethod
    def _address(cls, host: str) -> str:
        return checked_host(host)


class HomeAssistantSettings(Section):
    """Discovery by Home Assistant, which then shows this daemon as a device."""

    discovery: bool = Field(
        False, description="Publish this daemon to Home Assistant; false takes back what was published."
    )
    prefix: str = Field("homeassistant", min_length=1, max_length=256, description="Its discovery prefix.")

    @field_validator("prefix")
    @classmethod
    def _publishable(cls, prefix: str) -> str:
        return _checked_prefix(prefix)


def _checked_prefix(prefix: str) -> str:
    if not is_publishable(prefix) or prefix.startswith("/") or prefix.endswith("/"):
        raise ValueError("a prefix has no wildcard, does not start with '$' and neither starts nor ends with '/'")
    return prefix


class Settings(Section):
    """All settings."""

    node: Annotated[str, Field(min_length=1, max_length=128, pattern=NAME)] = Field(
        "edge", description="This box's name; one topic level. Default: the host's name."
    )
    prefix: str = Field("edged", min_length=1, max_length=256, description="First level(s) of every topic.")
    state_dir: UserPath = Field(Path("/var/lib/edged"), description="Folder of the journal and other state.")
    model_dir: UserPath = Field(Path("/var/cache/edged"), description="Where model files are stored.")
    language: Literal["auto", "zh", "en"] = Field(
        "auto", description="Prompt language; auto goes by the text's script."
    )
    calibration: Literal["static", "running", "own"] = Field(
        "static",
        description="static takes a prompt's own leaning out of the scores of labels. running also takes out what the "
        "last few hundred texts leaned to: for texts of which as many have one label as another; the same text then "
        "may get another score later. own corrects the scores by what `edged calibrate` learned from your own texts.",
    )
    half_width: bool = Field(True, description="Make full-width punctuation and letters half-width before the model.")
    shutdown_timeout: float = Field(20.0, ge=0, le=600, description="Seconds for work in flight to finish on SIGTERM.")
    mqtt: MqttSettings = MqttSettings()
    model: ModelSettings = ModelSettings()
    models: ModelsSettings = ModelsSettings()
    engine: EngineSettings = EngineSettings()
    queue: QueueSettings = QueueSettings()
    limits: LimitSettings = LimitSettings()
    sessions: SessionSettings = SessionSettings()
    health: HealthSettings = HealthSettings()
    journal: JournalSettings = JournalSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    http: HttpSettings = HttpSettings()
    homeassistant: HomeAssistantSettings = HomeAssistantSettings()
    tasks: dict[TaskName, TaskSettings] = Field({}, description="Your own tasks, by name; in the settings file only.")
    routes: dict[TaskName, route_settings.RouteSettings] = Field(
        {}, description="Text of other topics, and where its answers go, by name; in the settings file only."
    )

    @field_validator("prefix")
    @classmethod
    def _publishable(cls, prefix: str) -> str:
        return _checked_prefix(prefix)

    @model_validator(mode="after")
    def _tasks_and_routes_fit(self) -> "Settings":
        names = tasks_of(self.tasks).names
        route_settings.check(self.routes, prefix=self.prefix, node=self.node, tasks=names)
        return self

    @model_validator(mode="after")
    def _shared_journal_is_of_a_group(self) -> "Settings":
        if self.journal.url is not None and self.mqtt.share_group is None:
            raise ValueError("journal.url is for boxes of one group: set mqtt.share_group too")
        return self

    @model_validator(mode="after")
    def _group_is_no_node(self) -> "Settings":
        if self.mqtt.share_group == self.node:
            raise ValueError(f"mqtt.share_group and node are both {self.node!r}: a group needs a name of its own")
        return self

    @property
    def queue_capacity(self) -> int:
        """The capacity of the queue in force."""
        if self.queue.capacity is not None:
            return self.queue.capacity
        return _QUEUE if self.mqtt.share_group is None else _GROUP_QUEUE

    @property
    def reply_topics(self) -> tuple[str, ...]:
        """The filters of topics for answers in force."""
        return self.mqtt.reply_topics or (f"{self.prefix}/#",)

    @property
    def prompt_language(self) -> Language | None:
        """The language of all prompts; None: each text's script decides."""
        return None if self.language == "auto" else self.language

    @property
    def client_id(self) -> str:
        """The stable name of our session at the broker."""
        return self.mqtt.client_id or f"edged-{self.prefix.replace('/', '-')}-{self.node}"
