"""Verifying the certificate of an encrypted camera, by default with the certificate authorities of this machine.

`#ca=/path.pem` at the end of an address trusts that file instead, `#verify=0` switches verification off. FFmpeg
verifies the chain, but many versions do not compare the host name, and old ones do not verify RTSP at all; so Python
makes a TLS handshake first.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aselect_runtime.errors import InputError
from aselect_runtime.sources.addresses import HOST, quoted

SCHEMES = {"https": 443, "rtsps": 322}
"""Encrypted schemes and their default ports."""


@dataclass(frozen=True)
class Trust:
    """How a camera's certificate is verified: with the PEM file `ca` if given; not at all if `verify` is False."""

    verify: bool = True
    ca: str | None = None

    def options(self) -> dict[str, str]:
        """The settings as FFmpeg options."""
        if not self.verify:
            return {"tls_verify": "0"}
        bundle = self.ca or ssl.get_default_verify_paths().cafile
        return {"tls_verify": "1", **({"ca_file": bundle} if bundle else {})}


def split_trust(uri: str, name: str) -> tuple[str, Trust]:
    """The address as FFmpeg reads it, without its fragment, and the trust settings in the fragment.

    Raises InputError for other content of the fragment.
    """
    if uri.split("://", 1)[0].lower() not in SCHEMES:
        return quoted(uri), Trust()
    address, mark, fragment = _parted(uri)
    asked = dict(parse_qsl(fragment, keep_blank_values=True))
    ca, verify = asked.pop("ca", None), asked.pop("verify", "1")
    if (mark and not fragment) or asked or verify not in {"0", "1"}:
        raise InputError(f"{name}: got an unknown option after #, expected #ca=/path/of.pem or #verify=0")
    if ca is not None and not os.path.isfile(ca):
        raise InputError(f"{name}: got a path after #ca= that is no file, expected a PEM file with certificates")
    return address, Trust(verify == "1", ca)


def _parted(uri: str) -> tuple[str, str, str]:
    """The address, `#` and the fragment. The path of `#ca=` may contain `@`, and a password `#`."""
    before, mark, fragment = uri.rpartition("#")
    authority = re.split(r"[/?]", before.partition("://")[2], maxsplit=1)[0]
    if re.match(r"(ca|verify)=", fragment) and HOST.fullmatch(authority.rpartition("@")[2]):
        return quoted(before), mark, fragment
    return quoted(uri).partition("#")


def check_certificate(host: str, port: int, trust: Trust, name: str, timeout: float) -> None:
    """Raise InputError unless the server has a valid certificate for `host`."""
    if not trust.verify:
        return
    try:
        context = ssl.create_default_context(cafile=trust.ca)
        with (
            socket.create_connection((host, port), timeout) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            pass
    except ssl.SSLCertVerificationError as error:
        raise InputError(
            f"{name}: got a certificate that is not trusted ({error.verify_message}), expected one for this name; add "
            "#ca=/path/of.pem with the camera's certificate to the address, or #verify=0 to trust any certificate"
        ) from error
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(
            f"{name}: got no encrypted connection ({reason}), expected a stream there; check address and network"
        ) from error
