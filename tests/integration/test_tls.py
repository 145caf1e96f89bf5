"""TLS towards the broker: files that cannot be used and brokers that speak something else are named in words."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.mqtt.faults import in_words
from edged.mqtt.link import Link
from edged.mqtt.tls import make_context
from edged.settings.schema import MqttSettings
from tests.conftest import MakeBroker
from tests.support.certificates import PASSPHRASE, make_certificates
from tests.support.waiting import eventually

# paho leaves the socket of a failed handshake to Python.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, and files that are none."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    (folder / "empty").write_text("\n")
    (folder / "words").write_text("no certificate\n")
    (folder / "folder").mkdir()
    for name in ("ca.crt", "us.crt", "us.key"):
        (folder / f"cut.{name}").write_bytes((folder / name).read_bytes()[:150])
        (folder / f"bom.{name}").write_bytes(b"\xef\xbb\xbf# \xe4\xbd\xa0\n" + (folder / name).read_bytes())
    return folder


Files = dict[str, str]
OURS = {"cert": "us.crt", "key": "us.key"}


def settings_of(folder: Path, files: Files, **more: object) -> MqttSettings:
    words = ("key_password", "strict")
    tls = {name: value if name in words else str(folder / value) for name, value in files.items()}
    return MqttSettings.model_validate({"host": "127.0.0.1", "tls": tls} | more)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"ca": "empty"}, "empty (mqtt.tls.ca) is empty; it must hold a certificate as PEM"),
        ({"ca": "ca.der"}, "ca.der (mqtt.tls.ca) is DER; edged reads PEM: openssl x509 -inform DER -in "),
        ({"ca": "us.p12"}, "us.p12 (mqtt.tls.ca) is PKCS #12; edged reads PEM"),
        ({"ca": "words"}, "words (mqtt.tls.ca) is not PEM: it has no line -----BEGIN CERTIFICATE-----"),
        ({"ca": "ca.key"}, "ca.key (mqtt.tls.ca) has no certificate; it has: PRIVATE KEY"),
        ({"ca": "us.csr"}, "us.csr (mqtt.tls.ca) has no certificate; it has: CERTIFICATE REQUEST"),
        ({"ca": "cut.ca.crt"}, "cut.ca.crt (mqtt.tls.ca) cannot be read as certificates: the file is damaged"),
        ({"ca": "nowhere"}, "nowhere: No such file or directory"),
        ({"ca": "folder"}, "folder: Is a directory"),
        (OURS | {"cert": "ca.der"}, "ca.der (mqtt.tls.cert) is DER"),
        (OURS | {"cert": "us.key"}, "us.key (mqtt.tls.cert) has no certificate; it has: PRIVATE KEY"),
        (
            OURS | {"cert": "cut.us.crt"},
            "/cut.us.crt (mqtt.tls.cert) cannot be read: the file is damaged",
        ),
        (OURS | {"key": "empty"}, "empty (mqtt.tls.key) is empty; it must hold a private key as PEM"),
        (
            OURS | {"key": "us.key.der"},
            "us.key.der (mqtt.tls.key) is DER; edged reads PEM: openssl pkey -inform DER ",
        ),
        (OURS | {"key": "us.crt"}, "us.crt (mqtt.tls.key) has no private key; it has: CERTIFICATE"),
        (OURS | {"key": "cut.us.key"}, "the key {}/cut.us.key (mqtt.tls.key) cannot be read: the file is damaged"),
        (
            OURS | {"key": "broker.key"},
            "the key {0}/broker.key (mqtt.tls.key) does not belong to the certificate {0}/us.crt (mqtt.tls.cert)",
        ),
        (
            OURS | {"key": "us.enc.key"},
            "/us.enc.key (mqtt.tls.key) has a passphrase: set mqtt.tls.key_password",
        ),
        (
            OURS | {"key": "us.pk1.key"},
            "/us.pk1.key (mqtt.tls.key) has a passphrase: set mqtt.tls.key_password",
        ),
        (
            OURS | {"key": "us.enc.key", "key_password": "wrong"},
            "the key {}/us.enc.key (mqtt.tls.key) cannot be read with this passphrase; set mqtt.tls.key_password",
        ),
        (
            OURS | {"key": "us.enc.key", "key_password": "x" * 2000},
            "mqtt.tls.key_password cannot be used for ",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_its_setting(folder: Path, files: Files, words: str) -> None:
    settings = settings_of(folder, files)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its words are looked at below
        make_context(settings.tls)
    said = in_words(caught.value, settings)
    assert words.format(folder) in said
    assert str(folder) in said
    assert "wrong" not in said


@pytest.mark.parametrize(
    "files",
    [
        {"ca": "bom.ca.crt"},
        OURS,
        {"cert": "bom.us.crt", "key": "bom.us.key"},
        OURS | {"key_password": "not needed"},
        OURS | {"key": "us.enc.key", "key_password": PASSPHRASE},
        OURS | {"key": "us.pk1.key", "key_password": PASSPHRASE},
    ],
)
def test_files_that_can_be_used_are(folder: Path, files: Files) -> None:
    make_context(settings_of(folder, files).tls)


# -------------------------------------------------------------------------------------------------------- the broker


Connect = Callable[[MqttSettings], Link]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Start a link; it stops with the test."""
    links: list[Link] = []

    def start(settings: MqttSettings) -> Link:
        links.append(
            Link(
                settings=settings,
                client_id="tls",
                subscriptions=("tls/in",),
                will=None,
                receive_maximum=10,
                on_delivery=lambda _: None,
                on_change=lambda _: None,
                ephemeral=True,
            )
        )
        links[-1].start()
        return links[-1]

    yield start
    for link in links:
        link.stop(None, 1.0)


def lines_of(folder: Path, *more: str) -> list[str]:
    return [f"certfile {folder}/broker.crt", f"keyfile {folder}/broker.key", f"cafile {folder}/ca.crt", *more]


def wait_fault(link: Link, words: str) -> None:
    eventually(lambda: words in (link.state().fault or ""), f"the fault {words!r}")


TLS = {"ca": "ca.crt"}


@pytest.mark.parametrize(
    ("listener", "files", "transport", "words"),
    [
        ("plain", TLS, "tcp", "during the TLS handshake; if it does not speak TLS, set mqtt.port to its port for TLS"),
        ("websocket", TLS, "tcp", "does not speak TLS: set mqtt.port to its port for TLS"),
        ("tls", {}, "tcp", "or it wants TLS (set mqtt.tls.ca or mqtt.tls.enabled)"),
        ("websocket", {}, "tcp", 'speaks HTTP: for MQTT over WebSocket set mqtt.transport to "websockets"'),
        ("plain", {}, "websockets", 'for MQTT without WebSocket set mqtt.transport to "tcp"'),
        ("tls", {}, "websockets", "and whether it wants TLS (mqtt.tls)"),
    ],
)
def test_a_broker_that_speaks_something_else(
    make_broker: MakeBroker, connect: Connect, folder: Path, listener: str, files: Files, transport: str, words: str
) -> None:
    broker = make_broker(tls=lines_of(folder) if listener == "tls" else ())
    port = broker.websocket_port if listener == "websocket" else broker.port
    link = connect(settings_of(folder, files, port=port, transport=transport))
    wait_fault(link, words)
    assert f"127.0.0.1:{port}" in (link.state().fault or "")


def test_a_broker_that_wants_a_client_certificate(make_broker: MakeBroker, connect: Connect, folder: Path) -> None:
    broker = make_broker(tls=lines_of(folder, "require_certificate true"))
    wait_fault(connect(settings_of(folder, TLS, port=broker.port)), "it wants a client certificate (set mqtt.tls.cert")
    ours = TLS | OURS | {"key": "us.enc.key", "key_password": PASSPHRASE}
    link = connect(settings_of(folder, ours, port=broker.port))
    eventually(lambda: link.state().connected_since, "the connection with a key that has a passphrase")


def test_an_authority_without_key_usage(
    make_broker: MakeBroker, connect: Connect, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ssl.create_default_context

    def as_in_python_3_13(*, cafile: Path | None = None) -> ssl.SSLContext:
        context = create(cafile=cafile)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_in_python_3_13)
    broker = make_broker(tls=lines_of(folder))
    wait_fault(
        connect(settings_of(folder, TLS, port=broker.port)), "or accept it as it is with mqtt.tls.strict = false"
    )
    link = connect(settings_of(folder, TLS | {"strict": "false"}, port=broker.port))
    eventually(lambda: link.state().connected_since, "the connection")
