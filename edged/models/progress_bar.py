"""The progress bar of a download. A module of its own, because a daemon that downloads nothing does without tqdm."""

from typing import Any

from tqdm import tqdm


class _Bar(tqdm):  # type: ignore[type-arg]
    """A progress bar for terminals only; the hub's client would draw it into a log too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": kwargs.get("disable") or None})


class _NoBar(tqdm):  # type: ignore[type-arg]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def bar(*, show_progress: bool) -> Any:
    """The class of the bar to draw."""
    return _Bar if show_progress else _NoBar
