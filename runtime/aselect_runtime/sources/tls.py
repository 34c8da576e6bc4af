"""Verifying the certificate of an encrypted camera, by default with the certificate authorities of this machine.

`#ca=/path.pem` at the end of an address trusts that file instead, `#verify=0` switches verification off. FFmpeg
verifies the chain, but many versions do not compare the host name, and old ones do not verify RTSP at all; so Python
makes a TLS handshake first.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from aselect_runtime.addresses import split_options
from aselect_runtime.errors import InputError
from aselect_runtime.sources.addresses import ENCRYPTED
from aselect_runtime.sources.faults import unreachable

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"


@dataclass(frozen=True)
class Trust:
    """How a camera's certificate is verified: with the PEM file `ca` if given; not at all if `verify` is False."""

    verify: bool = True
    ca: str | None = None

    def options(self) -> str:
        """The settings as FFmpeg options."""
        if not self.verify:
            return "tls_verify;0"
        bundle = self.ca or ssl.get_default_verify_paths().cafile
        return f"tls_verify;1|ca_file;{bundle}" if bundle else "tls_verify;1"


def split_trust(uri: str, name: str) -> tuple[str, Trust]:
    """The address without its fragment, and the trust settings in the fragment; raises InputError for other content."""
    address, mark, fragment = uri.partition("#")
    scheme = address.split("://", 1)[0].lower()
    if scheme not in ENCRYPTED:
        return uri, Trust()
    options = None if mark and not fragment else split_options(fragment, ("ca", "verify"))
    ca, verify = (None, "") if options is None else (options.get("ca"), options.get("verify", "1"))
    if verify not in {"0", "1"} or (ca is not None and (";" in ca or "|" in ca)):
        raise InputError(f"{name}: got an unknown option after #, expected #ca=/path/of.pem or #verify=0")
    if ca is not None and not os.path.isfile(ca):
        raise InputError(f"{name}: got a path after #ca= that is no file, expected a PEM file with certificates")
    return address, Trust(verify == "1", ca)


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
        otherwise = f"got no encrypted connection ({reason}), expected a stream there; check address and network"
        raise InputError(f"{name}: {unreachable(host, error) or otherwise}") from error


class _Shared:
    """A setting of the whole process: users of the same value share it, users of another value wait."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._value = ""
        self._users = 0

    @contextmanager
    def holding(self, value: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._users or self._value == value)
            self._value = value
            self._users += 1
            if os.environ.get(OPTIONS) != value:
                os.environ[OPTIONS] = value
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()


_shared = _Shared()
_own = os.environ.get(OPTIONS)
"""The user's options, which take precedence."""


@contextmanager
def ffmpeg_options(trust: Trust) -> Iterator[None]:
    """Apply `trust` to captures opened in the block; OpenCV reads FFmpeg's options only from the environment."""
    with _shared.holding(_options(trust)):
        yield


def option_table(trust: Trust) -> dict[str, str]:
    """The same options for PyAV."""
    pairs = (option.partition(";") for option in _options(trust).split("|"))
    return {name: value for name, mark, value in pairs if mark}


def _options(trust: Trust) -> str:
    # RTSP over TCP: lost UDP packets would corrupt the image.
    own = "rtsp_transport;tcp" if _own is None else _own
    return own if "tls_verify" in own else "|".join(filter(None, (own, trust.options())))
