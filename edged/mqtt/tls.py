"""The TLS context made from the settings. Each error names the file, its setting and what to do."""

import re
import ssl
from pathlib import Path

from edged.settings.schema import TlsSettings

_LABELS = re.compile(rb"^-----BEGIN ([^-\r\n]+)-----", re.MULTILINE)
_CERTIFICATES = {"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"}
_KEYS = {"PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY"}
_SEQUENCE = b"\x30"  # the first byte of all that is DER
_PKCS12 = re.compile(rb"\x30(\x80|[\x00-\x7f]|\x81.|\x82..|\x83...)\x02\x01\x03", re.DOTALL)  # its version, 3, is first
_REMEDY = "set mqtt.tls.key_password (or the credential mqtt_tls_key_password)"


class TlsFileError(OSError):
    """A file of `mqtt.tls` cannot be used; the message says which, why, and what to do."""


def make_context(tls: TlsSettings) -> ssl.SSLContext:
    """Read the files of `tls`.

    Raises:
        TlsFileError: a file is not what its setting says.
        OSError: a file cannot be read; the error has its name.
    """
    if tls.ca is not None:
        _check(tls.ca, "mqtt.tls.ca", "certificate", _CERTIFICATES)
    try:
        context = ssl.create_default_context(cafile=tls.ca)
    except ssl.SSLError as error:
        raise TlsFileError(f"{tls.ca} (mqtt.tls.ca) cannot be read as certificates: {_reason(error)}") from error
    if not tls.strict:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.cert is not None and tls.key is not None:
        _load_own(context, tls, tls.cert, tls.key)
    return context


def _load_own(context: ssl.SSLContext, tls: TlsSettings, cert: Path, key: Path) -> None:
    """Load our certificate and its key. OpenSSL asks for a passphrase by the callback, and so never at a terminal."""
    _check(cert, "mqtt.tls.cert", "certificate", _CERTIFICATES)
    _check(key, "mqtt.tls.key", "private key", _KEYS)
    asked = False

    def passphrase() -> str:
        nonlocal asked
        asked = True
        if tls.key_password is None:
            raise TlsFileError(f"the key {key} (mqtt.tls.key) has a passphrase: {_REMEDY}")
        return tls.key_password.get_secret_value()

    try:
        context.load_cert_chain(cert, key, password=passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            words = f"the key {key} (mqtt.tls.key) does not belong to the certificate {cert} (mqtt.tls.cert)"
        elif not _has_readable_certificate(cert):
            words = f"the certificate {cert} (mqtt.tls.cert) cannot be read: {_reason(error)}"
        elif asked:
            words = f"the key {key} (mqtt.tls.key) cannot be read with this passphrase; {_REMEDY}"
        else:
            words = f"the key {key} (mqtt.tls.key) cannot be read: {_reason(error)}"
        raise TlsFileError(words) from error
    except ValueError as error:  # the passphrase is longer than OpenSSL takes
        raise TlsFileError(f"mqtt.tls.key_password cannot be used for {key}: {error}") from error


def _check(path: Path, setting: str, wanted: str, labels: set[str]) -> None:
    """Raise a `TlsFileError` if the file has no PEM block with one of the `labels`."""
    content = path.read_bytes()
    found = [label.decode(errors="replace") for label in _LABELS.findall(content.removeprefix(b"\xef\xbb\xbf"))]
    if any(label in labels for label in found):
        return
    name = f"{path} ({setting})"
    if not content.strip():
        raise TlsFileError(f"{name} is empty; it must hold a {wanted} as PEM")
    if found:
        raise TlsFileError(f"{name} has no {wanted}; it has: {', '.join(sorted(set(found)))}")
    if _PKCS12.match(content):
        remedy = f"openssl pkcs12 -in {path} -out client.pem -nodes"
        raise TlsFileError(f"{name} is PKCS #12; edged reads PEM, which has certificate and key: {remedy}")
    if content.startswith(_SEQUENCE):
        remedy = f"openssl {'pkey' if labels is _KEYS else 'x509'} -inform DER -in {path} -out {path.stem}.pem"
        raise TlsFileError(f"{name} is DER; edged reads PEM: {remedy}")
    raise TlsFileError(f"{name} is not PEM: it has no line -----BEGIN {wanted.upper()}-----")


def _has_readable_certificate(cert: Path) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cert)
    except ssl.SSLError:
        return False
    return True


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason; it has none for a file that is cut off or damaged."""
    return error.reason.lower().replace("_", " ") if error.reason else "the file is damaged"
