"""The seeds of the tests that break things at random moments.

Each run takes a random seed, and CI a fixed one beside it. `EDGED_TEST_SEED=NUMBER` takes that one alone.
"""

import os

GIVEN = "EDGED_TEST_SEED"
RANDOM = "EDGED_TEST_RANDOM_SEED"  # chosen at the start of pytest, the same for all of its workers
REPORT = "faults"  # the property of a test's report that holds what it measured
_FIXED = 20_261_127


def chosen() -> dict[str, int]:
    """The seeds of this run, by name."""
    if given := os.environ.get(GIVEN):
        return {"given": int(given)}
    fixed = {"fixed": _FIXED} if os.environ.get("CI") else {}
    return fixed | {"random": int(os.environ[RANDOM])}
