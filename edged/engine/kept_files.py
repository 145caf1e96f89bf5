"""What earlier processes left for this one: the warm-up file and the conversations, read beside the loading."""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from edged.engine import conversation_file, conversation_place, kv_file, warm_up_file
from edged.engine.conversation_file import ConversationFile
from edged.engine.loaded import Loaded
from edged.engine.plan import Plan
from edged.engine.warm_up_file import WarmUpFile

With = Callable[[Loaded[Any]], Loaded[Any]]


def read(plan: Plan, bundle: Path, library: Path | None, beside: Executor) -> With:
    """Begin to read the files of a bundle by an executor; they are of use to the native decoder alone.

    Returns:
        What waits for the end of that, and adds the files to the model that was loaded meanwhile.
    """
    conversations = plan.conversations
    if library is None or plan.cache_dir is None:
        if conversations is not None:
            conversation_place.discard(conversations.path)
        return lambda loaded: loaded
    path = warm_up_file.file_of(plan.cache_dir / "warm-up", bundle)
    made_of = kv_file.mark_of(bundle, library, half_width=plan.half_width)
    reading = beside.submit(warm_up_file.read, path, made_of)
    taking = None
    if conversations is not None:
        taking = beside.submit(conversation_file.take, conversations, made_of, wall_time=time.time())

    def add(loaded: Loaded[Any]) -> Loaded[Any]:
        model: Any = loaded.model
        file = WarmUpFile(path=path, bundle=bundle.absolute(), made_of=made_of, model=model, kept=reading.result())
        loaded = replace(loaded, warm_up_file=file)
        if conversations is None or taking is None:
            return loaded
        kept = ConversationFile(
            place=conversations, made_of=made_of, model=model, wall_clock=time.time, found=taking.result()
        )
        return replace(loaded, conversation_file=kept)

    return add
