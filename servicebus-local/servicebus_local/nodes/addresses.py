"""Addresses: from `amqps://host:port/orders/$management` to a path and the kind of node."""

from typing import Final, NamedTuple

CBS: Final = "$cbs"
MANAGEMENT: Final = "$management"


class Address(NamedTuple):
    """The path of an entity, without scheme and host, and whether its management is meant."""

    path: str
    management: bool = False

    @property
    def node(self) -> tuple[str, bool]:
        """What two addresses have in common that lead to the same node: case does not count."""
        return self.path.lower(), self.management


def read_address(address: str | None) -> Address:
    """Read an address as clients write it, with or without scheme and host."""
    path = (address or "").strip()
    if "://" in path:
        path = path.split("://", 1)[1].partition("/")[2]
    path = path.strip("/")
    head, _, tail = path.rpartition("/")
    if tail.lower() == MANAGEMENT:
        return Address(head, management=True)
    return Address(CBS if path.lower() == CBS else path)
