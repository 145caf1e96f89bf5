"""What `edged check` says of a model by its size."""

from edged.commands.checks import limits_of


def test_a_very_small_model_is_said_to_give_only_general_replies() -> None:
    assert "general replies" in limits_of(135_000_000)
    assert limits_of(500_000_000) == ""
