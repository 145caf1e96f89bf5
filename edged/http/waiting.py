"""A caller of HTTP that waits for its answer on an event loop, while the worker's thread brings it."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """A payload of this daemon: a chunk of the stream, or the answer, after which nothing comes."""

    is_answer: bool
    body: dict[str, Any]


class HttpCaller:
    """See `ports.Caller`. A reply has a limit, so what waits here has one too."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """`loop` is the one that `next` is awaited on."""
        self._loop = loop
        self._brought: asyncio.Queue[Brought] = asyncio.Queue()

    def take_chunk(self, payload: bytes) -> None:
        self._bring(Brought(is_answer=False, body=json.loads(payload)))

    def take_answer(self, payload: bytes) -> None:
        self._bring(Brought(is_answer=True, body=json.loads(payload)))

    async def next(self) -> Brought:
        """Wait for what the worker brings next."""
        return await self._brought.get()

    def _bring(self, brought: Brought) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever waited
            self._loop.call_soon_threadsafe(self._brought.put_nowait, brought)
