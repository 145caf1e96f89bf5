"""What waits for the engine."""

from edged.contract.requests import Contract
from edged.contract.topics import Topics
from edged.ports.engine import Work
from edged.serving.engine_queue import EngineQueue
from edged.serving.senders import Senders
from edged.tasks.built_in import BUILT_IN, REPLY
from edged.testing import ScriptedEngine

MANY = 200  # more than the engine takes in at once


def test_a_forgotten_conversation_is_forgotten_in_the_work_that_waits_too() -> None:
    engine = ScriptedEngine(auto=False)
    contract = Contract(
        topics=Topics(prefix="edged", node="box"),
        tasks=BUILT_IN,
        reply_topics=("edged/#",),
        payload_bytes=4096,
        text_chars=100,
    )
    queue = EngineQueue(
        engine,
        batch=1,
        senders=Senders(contract, clock=lambda: 0.0, wall_clock=lambda: 0.0),
        post=lambda function: function(),
        clock=lambda: 0.0,
    )
    for n in range(MANY):
        work = Work(key=str(n), spec=REPLY, text="hello", language="en", continues=True, conversation=f"s{n % 100}")
        queue.submit(work, lambda _: None, sender="", priority=0, received=0.0)
    assert len(engine.submitted) < 99
    queue.forget("s99")
    assert engine.forgotten == ["s99"]
    while len(engine.submitted) < MANY:
        engine.finish()
    kept = {int(work.key) for work in engine.submitted if work.conversation is not None and work.continues}
    assert kept == set(range(MANY)) - {99, 199}
