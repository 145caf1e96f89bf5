from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edged.engine.scheduler import Candidate, Urgency, admit, plan


def generate(number: int, *, prompt_left: int = 0, nbytes: int = 1) -> Candidate:
    return Candidate(key=f"g{number}", urgency=Urgency.GENERATE, number=number, prompt_left=prompt_left, nbytes=nbytes)


def classify(number: int, *, prompt_left: int = 8, nbytes: int = 1) -> Candidate:
    return Candidate(key=f"c{number}", urgency=Urgency.CLASSIFY, number=number, prompt_left=prompt_left, nbytes=nbytes)


def test_generations_join_in_order_of_arrival_up_to_the_batch() -> None:
    waiting = [generate(3), generate(1), generate(2)]
    assert admit(waiting, running=[generate(0)], max_batch=3, max_bytes=100) == ["g1", "g2"]


def test_order_precedes_arrival() -> None:
    late, early = replace(generate(9, prompt_left=80), order=1), replace(generate(1, prompt_left=80), order=2)
    assert admit([early, late], running=[], max_batch=1, max_bytes=100) == ["g9"]
    assert plan([early, late], prefill_tokens=100) == {"g9": 80, "g1": 20}


def test_a_classification_joins_a_full_batch() -> None:
    running = [generate(i) for i in range(4)]
    assert admit([generate(9), classify(10)], running=running, max_batch=4, max_bytes=100) == ["c10"]


def test_who_does_not_fit_in_memory_waits_and_is_not_overtaken_by_its_class() -> None:
    waiting = [generate(1, nbytes=60), generate(2, nbytes=10)]
    assert admit(waiting, running=[generate(0, nbytes=50)], max_batch=8, max_bytes=100) == []


def test_a_sequence_that_runs_alone_always_fits() -> None:
    assert admit([generate(1, nbytes=500)], running=[], max_batch=8, max_bytes=100) == ["g1"]


def test_decoding_rows_run_in_every_step_whatever_is_prefilled() -> None:
    running = [generate(0), generate(1), generate(2, prompt_left=1000)]
    assert plan(running, prefill_tokens=256) == {"g0": 1, "g1": 1, "g2": 256}


def test_a_classification_takes_the_prefill_budget_first() -> None:
    running = [generate(0, prompt_left=1000), classify(5, prompt_left=30)]
    assert plan(running, prefill_tokens=100) == {"c5": 30, "g0": 70}


def test_prompts_are_filled_one_after_the_other() -> None:
    running = [generate(1, prompt_left=80), generate(0, prompt_left=80)]
    assert plan(running, prefill_tokens=100) == {"g0": 80, "g1": 20}


def test_a_flood_does_not_join_the_step_of_a_sender_with_one_text() -> None:
    flood = [replace(classify(number), sender="flood", order=3) for number in range(4)]
    device = replace(classify(9), sender="device", order=3)
    assert plan([*flood, device], prefill_tokens=100) == {"c9": 8}
    assert plan(flood, prefill_tokens=100) == {"c0": 8, "c1": 8, "c2": 8, "c3": 8}


def test_a_sender_with_one_text_joins_the_step_of_a_flood_whose_turn_it_is() -> None:
    flood = [replace(classify(number), sender="flood", order=2) for number in range(4)]
    device = replace(classify(9), sender="device", order=3)
    assert plan([*flood, device], prefill_tokens=100) == {"c0": 8, "c1": 8, "c2": 8, "c3": 8, "c9": 8}


def test_senders_with_one_text_each_share_a_step() -> None:
    texts = [replace(classify(number), sender=f"device {number}") for number in range(3)]
    assert plan(texts, prefill_tokens=100) == {"c0": 8, "c1": 8, "c2": 8}


def test_replies_go_on_in_the_step_of_another_sender() -> None:
    flood = [replace(generate(number), sender="flood") for number in range(4)]
    device = replace(classify(9), sender="device")
    assert plan([*flood, device], prefill_tokens=100) == {"g0": 1, "g1": 1, "g2": 1, "g3": 1, "c9": 8}


def test_a_step_has_fewer_tokens_of_classifications_than_of_other_prompts() -> None:
    running = [classify(number, prompt_left=30) for number in range(4)] + [generate(9, prompt_left=1000)]
    assert plan(running, prefill_tokens=256, classify_tokens=64) == {"c0": 30, "c1": 30, "c2": 4, "g9": 192}
    assert plan(running, prefill_tokens=50, classify_tokens=64) == {"c0": 30, "c1": 20}


candidates = st.builds(
    Candidate,
    key=st.uuids().map(str),
    urgency=st.sampled_from(Urgency),
    number=st.integers(0, 1000),
    sender=st.sampled_from("abc"),
    order=st.integers(0, 2),
    nbytes=st.integers(1, 50),
    prompt_left=st.integers(0, 3000),
)


@given(st.lists(candidates, max_size=20), st.integers(1, 512), st.none() | st.integers(1, 512))
def test_no_step_prefills_more_than_its_budget_and_none_stands_still(
    batch: list[Candidate], budget: int, classify_tokens: int | None
) -> None:
    rows = plan(batch, prefill_tokens=budget, classify_tokens=classify_tokens)
    prefilled = sum(rows.get(each.key, 0) for each in batch if each.prompt_left)
    assert prefilled <= budget
    assert all(rows[each.key] == 1 for each in batch if not each.prompt_left)
    assert bool(rows) == bool(batch)


@given(st.lists(candidates, max_size=20), st.lists(candidates, max_size=5), st.integers(1, 8), st.integers(1, 200))
def test_admission_keeps_places_and_memory(
    waiting: list[Candidate], running: list[Candidate], max_batch: int, max_bytes: int
) -> None:
    admitted = set(admit(waiting, running=running, max_batch=max_batch, max_bytes=max_bytes))
    joined = [each for each in waiting if each.key in admitted]
    for urgency in Urgency:
        ran = sum(each.urgency is urgency for each in running)
        assert sum(each.urgency is urgency for each in joined) <= max(max_batch - ran, 0)
    total = sum(each.nbytes for each in (*running, *joined))
    assert not joined or total <= max_bytes or len(joined) + len(running) == 1
