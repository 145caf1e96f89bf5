"""What each sender asked for and got, and whether it may ask for more. Holds numbers and names, never text.

The worker's thread writes and the main thread reads, so one lock guards all. The tokens of a day count on after a
restart: they are kept in a state file.
"""

import hashlib
import heapq
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edged.contract.requests import Contract
from edged.contract.rules import Rule
from edged.errors import Busy
from edged.ports.worker import SenderCounts
from edged.state_files import StateFile

KNOWN = 1000  # senders that are remembered; the one that was silent for the longest time goes first
SHOWN = 20  # senders in the figures: those that took the most tokens
_MINUTE_S = 60.0
_HOUR_S = 3600.0
_DAY_HOURS = 24
_HASH_BYTES = 4
_NOTE_S = 60.0  # between two writes of the file

_Hours = dict[str, dict[str, int]]  # of each sender, by number of the hour


@dataclass(slots=True)
class _Bucket:
    """Fills steadily, up to the requests of a minute; at the time `credited`, `credit` of them may come at once."""

    credit: float
    credited: float

    def take(self, allowed: int, now: float) -> int | None:
        """Take one of `allowed` a minute (0: any number); where there is none, the milliseconds until there is."""
        if not allowed:
            return None
        per_second = allowed / _MINUTE_S
        self.credit = min(float(allowed), self.credit + per_second * (now - self.credited))
        self.credited = now
        if self.credit < 1:
            return int(1000 * (1 - self.credit) / per_second) + 1
        self.credit -= 1
        return None


@dataclass(slots=True)
class _Sender:
    """What is known of a sender; `hours`: by number of the hour since the epoch, the tokens that it took."""

    bucket: _Bucket
    requests: int = 0
    refused: int = 0
    tokens: int = 0
    hours: dict[int, int] = field(default_factory=dict)


class Senders:
    """The senders, by name."""

    def __init__(
        self,
        contract: Contract,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        record: Path | None = None,
    ) -> None:
        """Assign.

        Args:
            contract: has the limits.
            clock: monotonic seconds.
            wall_clock: seconds since the epoch.
            record: the state file; None: nothing is kept for the next process.
        """
        self._contract = contract
        self._clock = clock
        self._wall_clock = wall_clock
        self._file = None if record is None else StateFile(record, _Hours, kind="tokens of senders")
        self._noted_at = clock()
        self._is_noted = True
        self._lock = threading.Lock()
        self._senders: dict[str, _Sender] = {}  # in the order of use
        self._routes: dict[str, _Bucket] = {}
        self._salt = secrets.token_bytes(16)  # so that hidden names cannot be found by hashing guesses

    def use(self, contract: Contract) -> None:
        """Hold senders to other limits from now on."""
        self._contract = contract
        rules = {rule.name for rule in contract.topics.rules}
        self._routes = {name: bucket for name, bucket in self._routes.items() if name in rules}

    def recall(self) -> None:
        """Go on with what the process before this one has counted."""
        kept = None if self._file is None else self._file.read()
        with self._lock:
            for name, hours in (kept or {}).items():
                self._known(name).hours = {int(hour): tokens for hour, tokens in hours.items() if hour.isdecimal()}

    def note(self, *, at_once: bool = False) -> None:
        """Keep the tokens for the next process, once a minute or at once, where there is a limit."""
        if self._file is None or self._is_noted or not self._contract.tokens_per_day:
            return
        now = self._clock()
        if not at_once and now - self._noted_at < _NOTE_S:
            return
        with self._lock:
            first = self._hour() - _DAY_HOURS
            hours = {
                name: {str(hour): each.hours[hour] for hour in each.hours if hour > first}
                for name, each in self._senders.items()
            }
        self._file.write({name: each for name, each in hours.items() if each})
        self._noted_at, self._is_noted = now, True

    def admit(self, name: str, rule: Rule | None = None) -> None:
        """Count a request; `rule` is the route by which it came.

        Raises:
            Busy: the sender, or the route, has used up what it may take for now.
        """
        with self._lock:
            sender = self._known(name)
            sender.requests += 1
            try:
                self._check_route(rule)
                self._check_tokens(sender)
                self._check_rate(sender)
            except Busy:
                sender.refused += 1
                raise

    def spent(self, name: str, tokens: int) -> None:
        """Count tokens that were computed for a sender."""
        with self._lock:
            self._is_noted = False
            sender, hour = self._known(name), self._hour()
            sender.tokens += tokens
            sender.hours[hour] = sender.hours.get(hour, 0) + tokens
            for old in [each for each in sender.hours if each <= hour - _DAY_HOURS]:
                del sender.hours[old]

    def counts(self, in_hand: Iterable[str]) -> dict[str, SenderCounts]:
        """The figures of the senders that took the most; `in_hand`: the sender of each request in hand."""
        waiting = Counter(in_hand)
        with self._lock:
            most = heapq.nlargest(SHOWN, self._senders.items(), key=lambda each: (each[1].tokens, each[1].requests))
            return {
                self._shown(name): SenderCounts(
                    requests=each.requests, refused=each.refused, tokens=each.tokens, in_hand=waiting[name]
                )
                for name, each in most
            }

    def _known(self, name: str) -> _Sender:
        sender = self._senders.pop(name, None)
        if sender is None:
            sender = _Sender(_Bucket(float(self._contract.requests_per_minute), self._clock()))
        self._senders[name] = sender
        if len(self._senders) > KNOWN:
            del self._senders[next(iter(self._senders))]
        return sender

    def _hour(self) -> int:
        return int(self._wall_clock() // _HOUR_S)

    def _check_rate(self, sender: _Sender) -> None:
        allowed = self._contract.requests_per_minute
        if (wait_ms := sender.bucket.take(allowed, self._clock())) is not None:
            raise Busy(f"this sender has sent more than {allowed} requests in a minute", retry_after_ms=wait_ms)

    def _check_route(self, rule: Rule | None) -> None:
        if rule is None or not rule.rate:
            return
        bucket = self._routes.setdefault(rule.name, _Bucket(float(rule.rate), self._clock()))
        if (wait_ms := bucket.take(rule.rate, self._clock())) is not None:
            raise Busy(
                f"more than {rule.rate} messages in a minute came by the route {rule.name}", retry_after_ms=wait_ms
            )

    def _check_tokens(self, sender: _Sender) -> None:
        allowed, hour = self._contract.tokens_per_day, self._hour()
        # Not those of a later hour: the clock was wrong then.
        last_day = {each: tokens for each, tokens in sender.hours.items() if hour - _DAY_HOURS < each <= hour}
        if not allowed or sum(last_day.values()) < allowed:
            return
        left = sum(last_day.values())
        for each in sorted(last_day):
            left -= last_day[each]
            if left < allowed:
                free_at = (each + _DAY_HOURS) * _HOUR_S
                break
        raise Busy(
            f"this sender has taken {allowed} tokens in a day",
            retry_after_ms=max(1, int(1000 * (free_at - self._wall_clock()))),
        )

    def _shown(self, name: str) -> str:
        if not self._contract.hide_senders:
            return name
        return hashlib.blake2b(name.encode(), digest_size=_HASH_BYTES, key=self._salt).hexdigest()
