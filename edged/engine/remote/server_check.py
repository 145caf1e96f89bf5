"""One start of the engine on a server, to tell an operator whether it works."""

from edged.engine.remote import proxy
from edged.engine.remote.engine import RemoteEngine
from edged.errors import ModelUnavailable
from edged.settings.schema import Settings
from edged.tasks.specs import Tasks


def try_server(settings: Settings, *, timeout: float) -> str:
    """Start on the server, which asks it one short text and one short chat; returns what to tell of it.

    Args:
        settings: with `model.backend = "remote"`.
        timeout: seconds to wait for the server.

    Raises:
        ModelUnavailable: the server does not answer, or fails what it is asked.
    """
    way = proxy.told(settings.model)
    engine = RemoteEngine(settings, tasks=Tasks(()))
    engine.start()
    try:
        if not engine.wait_ready(timeout):
            reason = f" ({engine.waits_for})" if engine.waits_for else ""
            by = f"; it is asked {way}" if way else ""
            raise ModelUnavailable(
                f"{settings.model.url} does not answer{reason}; is that its address, and does it run?{by}"
            )
        if away := engine.state().away:
            raise ModelUnavailable(f"{settings.model.url}: {away}")
        return f"{engine.model.id} at {settings.model.url}{', asked ' if way else ''}{way}"
    finally:
        engine.stop(timeout)
