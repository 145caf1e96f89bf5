"""Results and conversations on a Redis server that the boxes of a group share: any of them continues a conversation.

Every key expires by itself, so nothing is pruned here; how much is kept is the server's `maxmemory`. How safe an
answer is against a power cut of the server is its `appendfsync`. Keys begin with `edged:{<prefix>/<group>}:`, whose
braces keep all of a group on one node of a Redis cluster.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from edged.errors import JournalFault, SettingsError
from edged.ports.journal import OBSERVED, Entry, JournalLimits, Recorded
from edged.tasks.calibration import Observation
from edged.tasks.conversation import MAX_TURNS, Turn

_TIMEOUT_S = 2.0  # for the server to answer; while the worker waits, no request is answered
_RETRY_S = 5.0  # after a fault, in which the server is not asked

# The first answer of a request counts, with its turns; in one script, so that no other box writes between.
# KEYS: result, unsettled, turns, the session's results by when they expire, starts, observations; ARGV: payload,
# request id, seconds of a result and of a session, turns kept, whether it has a packet id, whether a session,
# observations kept, how many there are and each as JSON, then each turn as JSON.
_RECORD = """
redis.call('DEL', KEYS[5])
local first = redis.call('HGET', KEYS[1], 'payload')
if first then return first end
redis.call('HSET', KEYS[1], 'payload', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if ARGV[6] == '1' then
  redis.call('HSET', KEYS[1], 'unsettled', KEYS[2])
  redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
end
if ARGV[7] == '1' then
  local now = tonumber(redis.call('TIME')[1])
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
  redis.call('ZADD', KEYS[4], now + ARGV[3], KEYS[1])
  redis.call('EXPIRE', KEYS[4], math.max(ARGV[3], redis.call('TTL', KEYS[4])))
end
local observed = 9 + ARGV[9]
for i = 10, observed do redis.call('RPUSH', KEYS[6], ARGV[i]) end
if observed > 9 then
  redis.call('LTRIM', KEYS[6], -ARGV[8], -1)
  redis.call('EXPIRE', KEYS[6], ARGV[4])
end
if #ARGV > observed then
  for i = observed + 1, #ARGV do redis.call('RPUSH', KEYS[3], ARGV[i]) end
  redis.call('LTRIM', KEYS[3], -ARGV[5], -1)
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
return ARGV[1]
"""
# KEYS: result; ARGV: request id. By now, the packet id may belong to another request.
_SETTLE = """
local unsettled = redis.call('HGET', KEYS[1], 'unsettled')
if unsettled and redis.call('GET', unsettled) == ARGV[1] then redis.call('DEL', unsettled) end
"""
_FORGET = """
for _, key in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do redis.call('DEL', key) end
local turns = redis.call('LLEN', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
return turns
"""
# A process counts once for a request, however often it begins it.
_BEGIN = """
if redis.call('HGET', KEYS[1], 'process') ~= ARGV[1] then
  redis.call('HINCRBY', KEYS[1], 'processes', 1)
  redis.call('HSET', KEYS[1], 'process', ARGV[1])
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('SADD', KEYS[2], KEYS[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
"""
_HAND_BACK = """
for _, key in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HGET', key, 'process') == ARGV[1] then redis.call('HINCRBY', key, 'processes', -1) end
end
redis.call('DEL', KEYS[1])
"""


class RedisJournal:
    """See `edged.ports.Journal`. Connects when it is first used, and again after a fault."""

    def __init__(self, url: str, limits: JournalLimits, *, group: str, node: str, clock: Callable[[], float]) -> None:
        """Assign; nothing is asked of the server yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`, as redis-py reads them.
            limits: hours that results and conversations are kept, and whether they are; their size is the server's.
            group: whose journal it is, for the names of the keys.
            node: this box; packet ids are its own.
            clock: monotonic seconds.

        Raises:
            SettingsError: the URL cannot be read.
        """
        try:
            # No retry within a call: the recorder tries again later, and answers go out meanwhile.
            self._redis: redis.Redis = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:
            # The error may quote a piece of a password whose special characters are not written as %2F or %23.
            raise SettingsError(
                "journal.url cannot be read: write redis://user:password@host:6379/0, rediss://… or unix://…, with the "
                "special characters of a password as %…"
            ) from None
        self._limits = limits
        self._head = f"edged:{{{group}}}"
        self._node = node
        self._clock = clock
        self._process = uuid.uuid4().hex
        self._retry_at = float("-inf")
        self._fault = ""
        self._result_s = max(1, round(3600 * limits.keep_hours))
        self._session_s = max(1, round(3600 * limits.session_hours))
        self._record = self._redis.register_script(_RECORD)
        self._settle = self._redis.register_script(_SETTLE)
        self._forget = self._redis.register_script(_FORGET)
        self._begin = self._redis.register_script(_BEGIN)
        self._hand_back = self._redis.register_script(_HAND_BACK)

    def open(self) -> None:
        with self._using():
            self._redis.ping()

    def close(self) -> None:
        """Let go of the connection."""
        self._redis.close()

    def record(self, entries: Sequence[Entry], settled: Iterable[tuple[str, str]] = ()) -> list[Recorded]:
        with self._using():
            pipe = self._redis.pipeline(transaction=True)
            for entry in entries:
                self._add(pipe, entry) if self._limits.keep_text else self._add_observations(pipe, entry)
            self._add_settled(pipe, settled)
            done = pipe.execute() if len(pipe) else []
        stand = done[: len(entries)] if self._limits.keep_text else [entry.payload for entry in entries]
        return [
            Recorded(request_id=entry.request_id, payload=payload)
            for entry, payload in zip(entries, stand, strict=True)
        ]

    def _add(self, pipe: Any, entry: Entry) -> None:
        session = entry.session or ""
        keys = [
            self._key("result", entry.request_id, entry.fingerprint),
            self._unsettled(entry.packet_id or 0, entry.fingerprint),
            self._key("turns", session),
            self._key("results", session),
            self._key("starts", entry.fingerprint),
            self._key("observations"),
        ]
        flags = [int(entry.packet_id is not None), int(entry.session is not None)]
        turns = [json.dumps([turn.role, turn.content], ensure_ascii=False) for turn in entry.turns if session]
        times = [self._result_s, self._session_s, MAX_TURNS]
        observed = _as_json(entry.observations)
        args: list[Any] = [entry.payload, entry.request_id, *times, *flags, OBSERVED, len(observed), *observed, *turns]
        self._record(keys=keys, args=args, client=pipe)

    def _add_observations(self, pipe: Any, entry: Entry) -> None:
        if not entry.observations:
            return
        key = self._key("observations")
        pipe.rpush(key, *_as_json(entry.observations))
        pipe.ltrim(key, -OBSERVED, -1)
        pipe.expire(key, self._session_s)

    def _add_settled(self, pipe: Any, requests: Iterable[tuple[str, str]]) -> None:
        for request_id, fingerprint in requests:
            self._settle(keys=[self._key("result", request_id, fingerprint)], args=[request_id], client=pipe)

    def find(self, request_id: str, fingerprint: str) -> Recorded | None:
        with self._using():
            payload: Any = self._redis.hget(self._key("result", request_id, fingerprint), "payload")
        return None if payload is None else Recorded(request_id=request_id, payload=payload)

    def find_unsettled(self, packet_id: int, fingerprint: str) -> Recorded | None:
        with self._using():
            request_id: Any = self._redis.get(self._unsettled(packet_id, fingerprint))
        return None if request_id is None else self.find(request_id.decode(), fingerprint)

    def settled(self, requests: Iterable[tuple[str, str]]) -> None:
        with self._using():
            pipe = self._redis.pipeline(transaction=True)
            self._add_settled(pipe, requests)
            if len(pipe):
                pipe.execute()

    def starts(self, fingerprint: str) -> int:
        with self._using():
            found: Any = self._redis.hmget(self._key("starts", fingerprint), ["process", "processes"])
        process, processes = found
        return 0 if process is None or process.decode() == self._process else int(processes)

    def begin(self, fingerprint: str) -> None:
        with self._using():
            keys = [self._key("starts", fingerprint), self._key("begun", self._process)]
            self._begin(keys=keys, args=[self._process, self._result_s])

    def hand_back(self) -> None:
        with self._using():
            self._hand_back(keys=[self._key("begun", self._process)], args=[self._process])

    def turns(self, session: str) -> tuple[Turn, ...]:
        with self._using():
            rows: Any = self._redis.lrange(self._key("turns", session), 0, -1)
        return tuple(Turn(role=role, content=content) for role, content in map(json.loads, rows))

    def observations(self) -> tuple[Observation, ...]:
        with self._using():
            rows: Any = self._redis.lrange(self._key("observations"), 0, -1)
        return tuple(Observation(judge=judge, scores=tuple(scores)) for judge, scores in map(json.loads, rows))

    def forget(self, session: str) -> int:
        with self._using():
            turns: Any = self._forget(keys=[self._key("turns", session), self._key("results", session)])
        return int(turns)

    def tidy(self, *, is_quiet: bool) -> None:
        """Nothing: keys expire by themselves, and what is deleted is gone from the server's memory at once."""

    def hurry(self) -> None:
        """Nothing here takes long."""

    def _key(self, kind: str, *names: str) -> str:
        # Ids and sessions hold no control character.
        return ":".join((self._head, kind, "\x1f".join(names)))

    def _unsettled(self, packet_id: int, fingerprint: str) -> str:
        return self._key("unsettled", self._node, str(packet_id), fingerprint)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """An error of the server becomes a JournalFault, and for some seconds the server is not asked again."""
        if self._clock() < self._retry_at:
            raise JournalFault(self._fault)
        try:
            yield
        except (redis.RedisError, OSError) as error:
            self._retry_at = self._clock() + _RETRY_S
            self._fault = f"Redis: {error}"
            raise JournalFault(self._fault) from error


def _as_json(observations: Iterable[Observation]) -> list[str]:
    return [json.dumps([each.judge, each.scores]) for each in observations]
