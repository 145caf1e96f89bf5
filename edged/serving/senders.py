"""What each sender asked for and got, and whether it may ask for more. Holds numbers and names, never text.

The worker's thread writes and the main thread reads, so one lock guards all.
"""

import hashlib
import heapq
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edged.contract.requests import Contract
from edged.errors import Busy
from edged.ports.worker import SenderCounts

KNOWN = 1000  # senders that are remembered; the one that was silent for the longest time goes first
SHOWN = 20  # senders in the figures: those that took the most tokens
_MINUTE_S = 60.0
_HOUR_S = 3600.0
_DAY_HOURS = 24
_HASH_BYTES = 4


@dataclass(slots=True)
class _Sender:
    """What is known of a sender.

    Attributes:
        credit: requests that it may send at once, at the time `credited`.
        hours: by number of the hour, the tokens that it took.
    """

    credit: float
    credited: float
    requests: int = 0
    refused: int = 0
    tokens: int = 0
    hours: dict[int, int] = field(default_factory=dict)


class Senders:
    """The senders, by name."""

    def __init__(self, contract: Contract, *, clock: Callable[[], float]) -> None:
        """`contract` has the limits; `clock` gives monotonic seconds."""
        self._contract = contract
        self._clock = clock
        self._lock = threading.Lock()
        self._senders: dict[str, _Sender] = {}  # in the order of use
        self._salt = secrets.token_bytes(16)  # so that hidden names cannot be found by hashing guesses

    def use(self, contract: Contract) -> None:
        """Hold senders to other limits from now on."""
        self._contract = contract

    def admit(self, name: str) -> None:
        """Count a request.

        Raises:
            Busy: the sender has used up what it may take for now.
        """
        with self._lock:
            sender, now = self._known(name), self._clock()
            sender.requests += 1
            try:
                self._check_tokens(sender, now)
                self._check_rate(sender, now)
            except Busy:
                sender.refused += 1
                raise

    def spent(self, name: str, tokens: int) -> None:
        """Count tokens that were computed for a sender."""
        with self._lock:
            sender, hour = self._known(name), int(self._clock() // _HOUR_S)
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
            sender = _Sender(credit=float(self._contract.requests_per_minute), credited=self._clock())
        self._senders[name] = sender
        if len(self._senders) > KNOWN:
            del self._senders[next(iter(self._senders))]
        return sender

    def _check_rate(self, sender: _Sender, now: float) -> None:
        """A bucket: it holds the requests of a minute and fills steadily."""
        allowed = self._contract.requests_per_minute
        if not allowed:
            return
        per_second = allowed / _MINUTE_S
        sender.credit = min(float(allowed), sender.credit + per_second * (now - sender.credited))
        sender.credited = now
        if sender.credit < 1:
            raise Busy(
                f"this sender has sent more than {allowed} requests in a minute",
                retry_after_ms=int(1000 * (1 - sender.credit) / per_second) + 1,
            )
        sender.credit -= 1

    def _check_tokens(self, sender: _Sender, now: float) -> None:
        allowed, hour = self._contract.tokens_per_day, int(now // _HOUR_S)
        last_day = {each: tokens for each, tokens in sender.hours.items() if each > hour - _DAY_HOURS}
        if not allowed or sum(last_day.values()) < allowed:
            return
        left = sum(last_day.values())
        for each in sorted(last_day):
            left -= last_day[each]
            if left < allowed:
                free_at = (each + _DAY_HOURS) * _HOUR_S
                break
        raise Busy(
            f"this sender has taken {allowed} tokens in a day", retry_after_ms=max(1, int(1000 * (free_at - now)))
        )

    def _shown(self, name: str) -> str:
        if not self._contract.hide_senders:
            return name
        return hashlib.blake2b(name.encode(), digest_size=_HASH_BYTES, key=self._salt).hexdigest()
