"""Certificates made by openssl, as the commonest how-tos make them."""

import subprocess
from pathlib import Path

PASSPHRASE = "open sesame"


def make_certificates(folder: Path) -> None:
    """Make an authority (ca.*) and certificates by it: `broker` for 127.0.0.1, and `us`.

    The authority has no key usage, as in mosquitto-tls(7). There are other forms too: `us.enc.key` is PKCS #8 with a
    passphrase, `us.pk1.key` the older form with a passphrase, `*.der` is DER, and `us.p12` is PKCS #12.
    """

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "2")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("broker", "us"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *signing)
    secret = ("-passout", f"pass:{PASSPHRASE}")
    openssl("pkey", "-in", "us.key", "-aes256", *secret, "-out", "us.enc.key")
    openssl("ec", "-in", "us.key", "-aes256", *secret, "-out", "us.pk1.key")
    openssl("pkey", "-in", "us.key", "-outform", "DER", "-out", "us.key.der")
    openssl("x509", "-in", "ca.crt", "-outform", "DER", "-out", "ca.der")
    openssl("pkcs12", "-export", "-in", "us.crt", "-inkey", "us.key", *secret, "-out", "us.p12")
