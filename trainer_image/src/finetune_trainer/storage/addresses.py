"""Where no URL of a job may lead, nor any redirect: to the services that tell a machine who it is.

Clouds serve credentials of the node at link-local addresses and a few others. A job that names such a place as its
storage, or a server that sends us there, would make the trainer ask in the node's name.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from finetune_api.outcome import Reason
from finetune_trainer.errors import RunError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAMES = ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")
_OTHERS = {
    ipaddress.ip_address(address)
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_HINT = "Name a storage server: requests to addresses that are link-local, or where clouds keep metadata, are not sent."


def refuse(url: str) -> None:
    """Raise RunError if the URL leads to such a place, by its name or by any address that its name has now."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    if host in _NAMES:
        raise _forbidden(host, "")
    for address in _addresses(host):
        if _is_forbidden(address):
            raise _forbidden(host, "" if str(address) == host else f" ({address})")


def _forbidden(host: str, what: str) -> RunError:
    message = f"a request to {host}{what} was not sent: storage cannot be there"
    return RunError(Reason.INVALID_CONFIGURATION, message, _HINT)


def _addresses(host: str) -> list[Address]:
    """Of a name, or of any way to write an address; none where it has none, which the connection will tell."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(place[0])) for *_, place in found]


def _is_forbidden(address: Address) -> bool:
    inner = _embedded(address)
    return address.is_link_local or address in _OTHERS or (inner is not None and _is_forbidden(inner))


def _embedded(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour
