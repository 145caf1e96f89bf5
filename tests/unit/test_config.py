"""Where settings come from, which is stronger, and what a wrong one is told."""

import json
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edged.errors import ExitCode, SettingsError
from edged.settings import load as config
from edged.settings.load import load
from edged.settings.routes import EXAMPLE as ROUTES_EXAMPLE
from edged.settings.schema import Settings
from edged.settings.text import example, names, schema, sections, show, variable
from edged.tasks.own import EXAMPLE

SECRET = "hush-hush"
WriteToml = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a word about us."""
    ours = re.compile(r"EDGED_.*|XDG_.*|.*_DIRECTORY|NOTIFY_SOCKET|WATCHDOG_.*", re.IGNORECASE)
    for name in list(os.environ):
        if ours.fullmatch(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(socket, "gethostname", lambda: "kitchen")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(config, "OF_THE_SYSTEM", tmp_path / "etc/edged.toml")


@pytest.fixture
def write_toml(tmp_path: Path) -> WriteToml:
    def write(text: str) -> Path:
        path = tmp_path / "edged.toml"
        path.write_text(text)
        return path

    return write


def setenv(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def fault(flags: Mapping[str, str] | None = None, file: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load(flags=flags or {}, config_file=file)
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.__cause__ is None or SECRET not in str(caught.value.__cause__)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------ sources


def test_without_a_word_all_is_at_its_default(tmp_path: Path) -> None:
    defaults = {
        "node": "kitchen",
        "state_dir": tmp_path / "home/.local/state/edged",
        "model_dir": tmp_path / "home/.cache/edged",
    }
    assert load(flags={}, config_file=None) == Settings.model_validate(defaults)


def test_each_source_yields_to_the_stronger_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_toml: WriteToml
) -> None:
    (tmp_path / "mqtt_username").write_text("of the credentials")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    username = [load(flags={}, config_file=None).mqtt.username]
    path = write_toml('[mqtt]\nusername = "of the file"\nhost = "broker.lan"\n[mqtt.tls]\nca = "/ca.pem"\n')
    username.append(load(flags={}, config_file=path).mqtt.username)
    monkeypatch.setenv("EDGED_MQTT__USERNAME", "of the environment")
    username.append(load(flags={}, config_file=path).mqtt.username)
    strongest = load(flags={"mqtt.username": "of the flags"}, config_file=path)
    assert [*username, strongest.mqtt.username] == [
        f"of the {each}" for each in ("credentials", "file", "environment", "flags")
    ]
    # What the stronger ones do not name stays as the weaker ones have it.
    assert (strongest.mqtt.host, strongest.mqtt.tls.ca) == ("broker.lan", Path("/ca.pem"))


def test_every_setting_can_be_given_in_the_environment_by_its_documented_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setenv(
        monkeypatch,
        {
            "EDGED_NODE": "box",
            "EDGED_HALF_WIDTH": "false",
            "EDGED_MQTT__PORT": "8883",
            "EDGED_MQTT__TLS__CA": "/ca.pem",
            "EDGED_MQTT__PASSWORD": SECRET,
            "EDGED_MODEL__ID": "./model.gguf",
            "EDGED_MODEL_DIR": "/models",
            "EDGED_JOURNAL__KEEP_HOURS": "0.5",
            "edged_log__level": "debug",
        },
    )
    settings = load(flags={}, config_file=None)
    assert (settings.node, settings.half_width, settings.mqtt.port) == ("box", False, 8883)
    assert settings.mqtt.tls.ca == Path("/ca.pem")
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == SECRET
    assert (settings.model.id, settings.model_dir) == ("./model.gguf", Path("/models"))
    assert (settings.journal.keep_hours, settings.log.level) == (0.5, "debug")


@pytest.mark.parametrize("written", ["a/#, b/+/c", '["a/#", "b/+/c"]', "a/#,b/+/c"])
def test_a_list_is_json_or_has_commas(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("EDGED_MQTT__REPLY_TOPICS", written)
    assert load(flags={}, config_file=None).mqtt.reply_topics == ("a/#", "b/+/c")
    monkeypatch.delenv("EDGED_MQTT__REPLY_TOPICS")
    assert load(flags={"mqtt.reply_topics": written}, config_file=None).mqtt.reply_topics == ("a/#", "b/+/c")


def test_answers_may_go_below_the_prefix_unless_the_settings_say_otherwise() -> None:
    assert load(flags={}, config_file=None).reply_topics == ("edged/#",)
    assert load(flags={"prefix": "home/ai"}, config_file=None).reply_topics == ("home/ai/#",)
    assert load(flags={"prefix": "home/ai", "mqtt.reply_topics": "a/#"}, config_file=None).reply_topics == ("a/#",)


def test_a_credential_loses_its_line_end_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mqtt_password").write_text(f" {SECRET} \n")
    (tmp_path / "mqtt_tls_key_password").write_text(" of the key \n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    mqtt = load(flags={}, config_file=None).mqtt
    assert mqtt.password is not None
    assert mqtt.password.get_secret_value() == f" {SECRET} "
    assert mqtt.tls.key_password is not None
    assert mqtt.tls.key_password.get_secret_value() == " of the key "


def test_the_file_may_be_named_in_the_environment_and_is_found_in_its_usual_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_toml: WriteToml
) -> None:
    at_home, of_system = tmp_path / "home/.config/edged/edged.toml", tmp_path / "etc/edged.toml"
    for path in (at_home, of_system):
        path.parent.mkdir(parents=True)
        path.write_text(f'node = "{path.parent.name}"')
        assert load(flags={}, config_file=None).node == path.parent.name
    monkeypatch.setenv("EDGED_CONFIG", str(write_toml('node = "named"')))
    assert load(flags={}, config_file=None).node == "named"
    assert load(flags={}, config_file=at_home).node == "edged"


@pytest.mark.parametrize(
    ("uid", "variables", "state_dir", "model_dir"),
    [
        (1000, {"HOME": "/home/u"}, "/home/u/.local/state/edged", "/home/u/.cache/edged"),
        (1000, {"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}, "/s/edged", "/c/edged"),
        (0, {}, "/var/lib/edged", "/var/cache/edged"),
        (0, {"XDG_STATE_HOME": "/s"}, "/s/edged", "/var/cache/edged"),
        (
            1000,
            {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "CACHE_DIRECTORY": "/var/cache/a"},
            "/var/lib/a",
            "/var/cache/a",
        ),
    ],
)
def test_folders_are_where_systemd_or_the_user_or_the_system_has_them(
    monkeypatch: pytest.MonkeyPatch, uid: int, variables: Mapping[str, str], state_dir: str, model_dir: str
) -> None:
    setenv(monkeypatch, variables)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    settings = load(flags={}, config_file=None)
    assert (settings.state_dir, settings.model_dir) == (Path(state_dir), Path(model_dir))


@pytest.mark.parametrize(
    ("hostname", "node"), [("kitchen.lan", "kitchen.lan"), ("a b/c#", "a-b-c"), ("厨房", "厨房"), ("+", "edge")]
)
def test_a_host_name_becomes_one_level_of_a_topic(monkeypatch: pytest.MonkeyPatch, hostname: str, node: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: hostname)
    assert load(flags={}, config_file=None).node == node


@given(st.text(max_size=64))
@hypothesis_settings(deadline=None)
def test_any_host_name_makes_a_node(hostname: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: hostname)
        assert load(flags={}, config_file=None).node


def test_our_other_variables_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    others = ("EDGED_VENV", "EDGED_TEST_MODEL", "EDGED_MOSQUITTO", "EDGED_MOSQUITTO_CLIENTS", "EDGED_CONFIG")
    setenv(monkeypatch, dict.fromkeys(others, ""))
    load(flags={}, config_file=None)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, config.Systemd(notify_socket=None, watchdog_s=None)),
        ({"NOTIFY_SOCKET": ""}, config.Systemd(notify_socket=None, watchdog_s=None)),
        ({"NOTIFY_SOCKET": "@x"}, config.Systemd(notify_socket="@x", watchdog_s=None)),
        ({"WATCHDOG_USEC": "30000000"}, config.Systemd(notify_socket=None, watchdog_s=30.0)),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, config.Systemd(notify_socket=None, watchdog_s=None)),
        ({"WATCHDOG_USEC": "soon"}, config.Systemd(notify_socket=None, watchdog_s=None)),
    ],
)
def test_what_systemd_says(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], expected: config.Systemd
) -> None:
    setenv(monkeypatch, variables)
    assert config.systemd() == expected


# ------------------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("EDGED_MQTT__HOTS", "x", ("EDGED_MQTT__HOTS is no setting", "did you mean EDGED_MQTT__HOST?")),
        ("EDGED_MQTT", "{}", ("EDGED_MQTT is no setting",)),
        ("EDGED_NODE__NAME", "x", ("EDGED_NODE__NAME is no setting",)),
        ("EDGED_WHATEVER_THIS_IS", "x", ("is no setting", "`edged config --example` lists all")),
        ("EDGED_MQTT__PORT", "many", ("EDGED_MQTT__PORT = 'many' is not allowed", "valid integer")),
        ("EDGED_MQTT__PORT", "70000", ("EDGED_MQTT__PORT = '70000' is not allowed", "65535")),
        ("EDGED_MQTT__TRANSPORT", "udp", ("'udp'", "'tcp', 'websockets' or 'unix'")),
        ("EDGED_MQTT__REPLY_TOPICS", "a/#/b", ("EDGED_MQTT__REPLY_TOPICS", "no topic filter")),
        ("EDGED_MQTT__REPLY_TOPICS", '["a"', ("EDGED_MQTT__REPLY_TOPICS",)),
        ("EDGED_NODE", "a/b", ("EDGED_NODE = 'a/b' is not allowed",)),
        ("EDGED_NODE", "/", ("EDGED_NODE = '/'", "one level of a topic")),
        ("EDGED_PREFIX", "$SYS", ("EDGED_PREFIX = '$SYS'", "prefix")),
        ("EDGED_HEALTH__INTERVAL", "nan", ("EDGED_HEALTH__INTERVAL", "finite number")),
        ("EDGED_HALF_WIDTH", "perhaps", ("EDGED_HALF_WIDTH = 'perhaps'", "boolean")),
        ("edged_node", "+", ("edged_node = '+' is not allowed",)),
    ],
)
def test_a_wrong_variable_is_refused_by_name_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, parts: tuple[str, ...]
) -> None:
    monkeypatch.setenv(name, value)
    message = fault()
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ('[mqtt]\nhots = "x"', ("mqtt.hots in", "edged.toml is no setting", "did you mean mqtt.host?")),
        ('[mqqt]\nhost = "x"', ("mqqt in", "is no setting", "did you mean mqtt?")),
        ("mqtt = 5", ("mqtt in", "write [mqtt]")),
        ("[mqtt]\ntls = true", ("mqtt.tls in", "write [mqtt.tls]")),
        ("[node]\na = 1", ("node in", "valid string")),
        ("node = 5", ("node in", "= 5 is not allowed", "valid string")),
        ("[mqtt]\nport = 0", ("mqtt.port in", "edged.toml = 0 is not allowed", "greater than or equal to 1")),
        ("[mqtt]\nreply_topics = [1]", ("mqtt.reply_topics in", "valid string")),
        ("[mqtt]\nreply_topics = []", ("mqtt.reply_topics in", "at least 1")),
        ('[mqtt.tls]\ncert = "/c"', ("mqtt.tls: cert and key are given together",)),
        ("[engine]\nmax_new_tokens = 4000", ("engine: max_new_tokens must be below max_context_tokens",)),
        ("node = =", ("edged.toml is not valid TOML", "line 1")),
        ("a" * 10_000, ("not valid TOML",)),
        (f'prefix = "{"+" * 10_000}"', ("prefix in", "is not allowed")),
        ("x = " + "[" * 5_000, ("not valid TOML",)),
    ],
)
def test_a_wrong_file_is_refused_by_name_with_what_is_allowed(
    write_toml: WriteToml, toml: str, parts: tuple[str, ...]
) -> None:
    message = fault(file=write_toml(toml))
    assert all(part in message for part in parts), message
    assert len(message) < 500
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"mqtt.hots": "x"}, ("--set mqtt.hots is no setting", "did you mean mqtt.host?")),
        ({"mqtt": "x"}, ("--set mqtt is no setting",)),
        ({"mqtt": "x", "mqtt.host": "y"}, ("--set mqtt is no setting",)),
        ({"": "x"}, ("--set  is no setting",)),
        ({"mqtt.port": "x"}, ("--set mqtt.port = 'x' is not allowed",)),
    ],
)
def test_a_wrong_flag_is_refused_by_name(flags: Mapping[str, str], parts: tuple[str, ...]) -> None:
    message = fault(flags)
    assert all(part in message for part in parts), message


def test_the_value_that_counts_is_named_where_it_was_written(
    monkeypatch: pytest.MonkeyPatch, write_toml: WriteToml
) -> None:
    path = write_toml("[mqtt]\nport = 0")
    monkeypatch.setenv("EDGED_MQTT__PORT", "0")
    assert fault({"mqtt.port": "0"}, path).startswith("--set mqtt.port = '0'")
    assert fault(file=path).startswith("EDGED_MQTT__PORT = '0'")
    monkeypatch.delenv("EDGED_MQTT__PORT")
    assert fault(file=path).startswith(f"mqtt.port in {path} = 0")


def test_all_faults_are_told_at_once(monkeypatch: pytest.MonkeyPatch, write_toml: WriteToml) -> None:
    monkeypatch.setenv("EDGED_MQTT__PORT", "x")
    assert len(fault({"queue.capacity": "0"}, write_toml("[limits]\ntext_chars = 0")).splitlines()) == 3
    monkeypatch.setenv("EDGED_A", "x")
    assert len(fault({"b": "0"}, write_toml("c = 0")).splitlines()) == 4


def test_rules_of_several_settings_are_told_beside_wrong_values(write_toml: WriteToml) -> None:
    toml = """
    bogus = 1
    node = "team"
    [mqtt]
    port = 0
    reply_topics = ["a/#/b", 7]
    share_group = "team"
    [mqtt.tls]
    cert = "/c"
    [engine]
    max_new_tokens = 4000
    [tasks.a]
    kind = "classify"
    """
    message = fault({"limits.text_chars": "0"}, write_toml(toml))
    for part in (
        "bogus in",
        "mqtt.port in",
        "mqtt.reply_topics in",
        "mqtt.tls: cert and key",
        "engine: max_new_tokens",
        "--set limits.text_chars",
        "tasks.a",
        "mqtt.share_group and node are both 'team'",
    ):
        assert part in message, message
    # A pair is not told as broken where one of the two is wrong in itself.
    assert len(fault(file=write_toml('[mqtt.tls]\ncert = 5\nkey = "/k"')).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("node", "a/b"),
        ("mqtt.share_group", "a+b"),
        ("mqtt.websocket_path", "mqtt"),
        ("model.url", "host:8080"),
        ("prefix", "a/+"),
    ],
)
def test_what_is_allowed_is_told_in_words_and_not_as_a_pattern(name: str, value: str) -> None:
    message = fault({name: value})
    assert f"--set {name}" in message
    assert not re.search(r"\\x|\[\^|pattern", message), message


def test_a_tasks_name_is_told_in_words(write_toml: WriteToml) -> None:
    message = fault(file=write_toml('[tasks."a/b"]\nkind = "generate"\nrole = "You help."'))
    assert "one level of a topic" in message
    assert "pattern" not in message


# ------------------------------------------------------------------- what editors, composes and clusters hand over


@pytest.mark.parametrize(
    "variables",
    [
        {
            "EDGED_PORT": "tcp://10.0.0.1:9464",
            "EDGED_SERVICE_HOST": "10.0.0.1",
            "EDGED_SERVICE_PORT": "9464",
            "EDGED_SERVICE_PORT_METRICS": "9464",
            "EDGED_PORT_9464_TCP": "tcp://10.0.0.1:9464",
            "EDGED_PORT_9464_TCP_PROTO": "tcp",
            "EDGED_PORT_9464_TCP_PORT": "9464",
            "EDGED_PORT_9464_TCP_ADDR": "10.0.0.1",
        },
        {"EDGED_MQTT_PORT": "tcp://10.0.0.2:1883", "EDGED_MQTT_PORT_53_UDP": "udp://10.0.0.2:53"},
        {"EDGED_MODEL_SERVICE_HOST": "fd00::1", "EDGED_MODEL_SERVICE_PORT": "80"},
        {"EDGED_1_PORT": "tcp://172.17.0.5:9464", "EDGED_NAME": "/dashboard/edged"},
    ],
)
def test_variables_of_a_cluster_are_no_settings(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    without = load(flags={}, config_file=None)
    setenv(monkeypatch, variables)
    warnings: list[str] = []
    assert load(flags={}, config_file=None, warn=warnings.append) == without
    assert len(warnings) == 1
    assert all(name in warnings[0] for name in variables)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EDGED_PORT", "1883"),
        ("EDGED_HOST", "broker"),
        ("EDGED_MQTT_PORT", "1883"),
        ("EDGED_MQTT_HOST", "10.0.0.1"),
        ("EDGED_METRICS_PORT", "9464"),
        ("EDGED_MODEL_NAME", "/models/qwen"),
        ("EDGED_MQTT__PORT", "tcp://10.0.0.1:1883"),
        ("EDGED_MQTT__SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_a_near_miss_of_a_setting_is_refused_in_a_cluster_too(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("EDGED_PORT_9464_TCP", "tcp://10.0.0.1:9464")
    monkeypatch.setenv(name, value)
    assert name in fault()


def test_an_empty_variable_is_as_one_that_is_not_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_toml: WriteToml
) -> None:
    (tmp_path / "mqtt_password").write_text("\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    path = write_toml('[mqtt]\nport = 1884\npassword = "hush-hush"')
    without = load(flags={}, config_file=path)
    setenv(monkeypatch, {variable(name): "" for name in names()})
    setenv(monkeypatch, {"EDGED_CONFIG": "", "EDGED_NEXT_RELEASE": ""})
    assert load(flags={}, config_file=path) == without
    assert not load(flags={}, config_file=path).mqtt.tls.is_on
    assert f"mqtt.port in {path} = 0" in fault(file=write_toml("[mqtt]\nport = 0"))


@pytest.mark.parametrize("name", ["state_dir", "model_dir", "mqtt.tls.ca"])
def test_an_empty_path_is_refused_where_it_was_meant(name: str) -> None:
    assert "empty path" in fault({name: ""})


def test_the_home_is_found_in_every_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_toml: WriteToml
) -> None:
    home = tmp_path / "home"
    path = write_toml(
        'state_dir = "~/state"\nmodel_dir = "~/models"\n[mqtt]\ntransport = "unix"\nhost = "~/mosquitto.sock"\n'
        '[mqtt.tls]\nca = "~/ca"\ncert = "~/cert"\nkey = "~/key"'
    )
    settings = load(flags={}, config_file=path)
    assert (settings.state_dir, settings.model_dir) == (home / "state", home / "models")
    assert settings.mqtt.host == str(home / "mosquitto.sock")
    tls = settings.mqtt.tls
    assert (tls.ca, tls.cert, tls.key) == (home / "ca", home / "cert", home / "key")
    monkeypatch.setenv("EDGED_STATE_DIR", "~/there")
    assert load(flags={}, config_file=None).state_dir == home / "there"
    assert load(flags={"state_dir": "~/here"}, config_file=None).state_dir == home / "here"
    assert load(flags={"state_dir": "./here"}, config_file=None).state_dir == Path("here")
    assert "no such user" in fault({"state_dir": "~nobody-of-that-name/x"})
    assert "no such user" in fault(file=Path("~nobody-of-that-name/x"))
    home.mkdir()
    (home / "own.toml").write_text('node = "own"')
    assert load(flags={}, config_file=Path("~/own.toml")).node == "own"
    monkeypatch.setenv("EDGED_CONFIG", "~/own.toml")
    assert load(flags={}, config_file=None).node == "own"


def test_a_byte_order_mark_is_no_part_of_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_toml: WriteToml
) -> None:
    path = write_toml("")
    path.write_bytes(b'\xef\xbb\xbfnode = "box"\r\n')
    (tmp_path / "mqtt_password").write_bytes(b"\xef\xbb\xbfhush-hush\r\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = load(flags={}, config_file=path)
    assert settings.node == "box"
    assert settings.mqtt.password is not None
    assert settings.mqtt.password.get_secret_value() == SECRET
    path.write_bytes('node = "box"'.encode("utf-16"))
    assert "UTF-16; save it as UTF-8" in fault(file=path)


@pytest.mark.parametrize(
    ("host", "taken"),
    [("[::1]", "::1"), ("::1", "::1"), ("[fe80::1%eth0]", "fe80::1%eth0"), ("bücher.example", "bücher.example")],
)
def test_an_address_may_stand_in_brackets(host: str, taken: str) -> None:
    settings = load(flags={"mqtt.host": host, "metrics.host": host}, config_file=None)
    assert (settings.mqtt.host, settings.metrics.host) == (taken, taken)


@pytest.mark.parametrize(
    ("host", "rule"),
    [
        ("a..b", "between its dots"),
        (".a", "between its dots"),
        ("a" * 64, "between its dots"),
        ("[broker]", "IPv6 address"),
        ("[::1", "brackets"),
        ("broker:1883", "port is a setting of its own"),
        ("[::1]:1883", "port is a setting of its own"),
        ("'broker'", "quotes"),
        ("my broker", "spaces"),
    ],
)
@pytest.mark.parametrize("name", ["mqtt.host", "metrics.host"])
def test_what_no_host_can_be_called_is_told(name: str, host: str, rule: str) -> None:
    message = fault({name: host})
    assert f"--set {name}" in message
    assert rule in message


def test_quotes_that_a_file_of_variables_kept_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_MQTT__PORT", '"1883"')
    assert "leave them out" in fault()


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    assert "nowhere.toml: No such file" in fault(file=tmp_path / "nowhere.toml")
    assert "Is a directory" in fault(file=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'node = "\xe9"')
    assert "not valid TOML" in fault(file=tmp_path / "latin.toml")


def test_a_file_named_in_the_environment_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGED_CONFIG", "/nowhere.toml")
    assert "/nowhere.toml" in fault()


def test_a_credential_that_cannot_be_read_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "mqtt_password").write_bytes(b"\xff" + SECRET.encode())
    message = fault()
    assert "mqtt_password is not UTF-8" in message
    (tmp_path / "mqtt_password").unlink()
    (tmp_path / "mqtt_password").mkdir()
    assert "Is a directory" in fault()


def test_a_wrong_secret_is_not_repeated(write_toml: WriteToml) -> None:
    message = fault(file=write_toml(f'[mqtt]\npassword = ["{SECRET}"]\nusername = ["{SECRET}"]'))
    assert "mqtt.password in" in message
    assert SECRET not in message


# ------------------------------------------------------------------------------------------------ settings as text


def test_the_example_names_every_setting_and_says_what_it_means() -> None:
    text = example()
    assert "\n[mqtt.tls]\n" in text
    for name in names():
        assert re.search(rf"\n# .{{15,}}\n# ?{name.rpartition('.')[2]} =", text), name
    assert tomllib.loads(text) == {
        **{section: {} for section in sections() if section and "." not in section},
        "mqtt": {"tls": {}},
    }


def test_the_example_with_its_comments_taken_off_is_the_defaults() -> None:
    text = re.sub(r"^#(?=\w)", "", example().removesuffix(f"{EXAMPLE}\n{ROUTES_EXAMPLE}"), flags=re.MULTILINE)
    parsed = tomllib.loads(text)
    assert parsed["mqtt"]["keepalive"] == Settings().mqtt.keepalive
    assert Settings.model_validate(parsed) == Settings()
    settable = {name for name in names() if re.search(rf"^{name.rpartition('.')[2]} =", text, re.MULTILINE)}
    assert len(settable) > 30


def test_the_example_says_what_is_allowed() -> None:
    assert 'One of "tcp", "websockets", "unix".' in example()
    assert "\n# node =\n" in example()  # this box's own name is no default for the next
    assert "1 to 65535." in example()


def test_what_is_shown_is_what_is_in_force_without_secrets(write_toml: WriteToml) -> None:
    path = write_toml(
        f'[mqtt]\nclient_id = "a \\"b\\" \\\\ 好 \\t\\u007f"\npassword = "{SECRET}"\nport = 1\n[mqtt.tls]\nca = "/ca"'
    )
    settings = load(flags={}, config_file=path)
    shown = tomllib.loads(show(settings))
    assert SECRET not in show(settings)
    assert shown["mqtt"].pop("password") == "***"
    again = Settings.model_validate(shown)
    assert again == settings.model_copy(update={"mqtt": settings.mqtt.model_copy(update={"password": None})})


def test_the_schema_describes_every_setting() -> None:
    found = schema()
    json.dumps(found, allow_nan=False)
    sections = [found, *found["$defs"].values()]
    described = {name for each in sections for name, field in each["properties"].items() if "description" in field}
    assert described >= {name.rpartition(".")[2] for name in names()}
    assert found["additionalProperties"] is False


def test_variables_are_named_as_documented() -> None:
    assert variable("mqtt.tls.ca") == "EDGED_MQTT__TLS__CA"
    assert variable("state_dir") == "EDGED_STATE_DIR"


def test_the_example_that_ships_is_the_one_that_is_generated() -> None:
    shipped = Path(__file__).parents[2] / "deploy" / "edged.toml"
    assert shipped.read_text(encoding="utf-8") == example(), "edged config --example > deploy/edged.toml"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"http.port": "8080", "http.host": "0.0.0.0"}, "can be reached by others: set token too"),  # noqa: S104 - refused
        ({"http.port": "8080", "http.host": "box.lan"}, "can be reached by others: set token too"),
        ({"http.token": "easy"}, "at least 16 characters"),
        ({"http.token": "with a space in the middle"}, "neither spaces nor control characters"),
    ],
)
def test_http_is_served_to_others_only_with_a_key_that_none_guesses(flags: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told) as refused:
        load(flags=flags, config_file=None)
    assert "easy" not in str(refused.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_on_this_box_alone_http_needs_no_key(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(flags={"http.port": "8080", "http.host": host}, config_file=None).http.token is None
    (tmp_path / "http_token").write_text("0123456789abcdef\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    token = load(flags={"http.port": "8080", "http.host": "192.168.1.2"}, config_file=None).http.token
    assert token is not None
    assert token.get_secret_value() == "0123456789abcdef"
