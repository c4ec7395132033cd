"""Where the servers are: one address, or several that share the calls."""

import json
import socket
from collections.abc import Sequence

from attendant.tls import Tls

ChannelOptions = tuple[tuple[str, str | int], ...]

# Each call to the next server, and to none that says it is not serving: one that starts, or that
# drains. The name of no service is the whole server.
_ROUND_ROBIN = json.dumps(
    {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
)


def resolve(target: str | Sequence[str]) -> tuple[str, ChannelOptions]:
    """What gRPC calls the target, and the options it needs.

    Names of several servers are looked up here and now, because gRPC takes several addresses but
    not several names. Raises OSError for a name that there is not, ValueError for no port.
    """
    if isinstance(target, str):
        return target, ()
    if not target:
        raise ValueError("expected the address of a server, found none")
    balanced: ChannelOptions = (("grpc.service_config", _ROUND_ROBIN),)
    if len(target) == 1:
        return target[0], balanced
    pairs = [_split(address) for address in target]
    found = [socket.getaddrinfo(*pair, type=socket.SOCK_STREAM) for pair in pairs]
    for family, scheme, form in (
        (socket.AF_INET, "ipv4", "{0}:{1}"),
        (socket.AF_INET6, "ipv6", "[{0}]:{1}"),
    ):
        chosen = [next((one[4] for one in each if one[0] == family), None) for each in found]
        addresses = [form.format(*address) for address in chosen if address is not None]
        if len(addresses) == len(pairs):
            # Certificates are for names, so a list of addresses has that of the first server.
            authority = (("grpc.default_authority", pairs[0][0]),)
            return f"{scheme}:{','.join(addresses)}", (*balanced, *authority)
    raise ValueError(f"expected IPv4 or IPv6 addresses alone, found both: {', '.join(target)}")


def tls_options(tls: Tls | None) -> ChannelOptions:
    """What a channel needs to know of the server's name."""
    if tls is None or not tls.server_name:
        return ()
    return (("grpc.ssl_target_name_override", tls.server_name),)


def _split(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"expected HOST:PORT, found {address}")
    return host.strip("[]"), int(port)
