"""The raw routes of an app: found by address, or by the whole head of a request that came before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.types import Scope as AsgiScope

from shared.web.raw import NO_PARAMETERS, RawRoute

MOST_ADDRESSES = 1024
MOST_HEADS = 1024
MOST_LINES = 32
UNIQUE = frozenset({b"x-request-id", b"traceparent"})
"""Headers that are another in each request."""


@dataclass(slots=True)
class Head:
    """A request's head, parsed: good for the route's express handler but for the key, which is looked at each time."""

    route: RawRoute
    path: Mapping[str, str]
    """Path parameters."""
    address: bytes
    headers: Mapping[bytes, bytes]
    body_bytes: int
    """As the head says; at least 1."""


class RawRoutes:
    """The raw routes of an app, by method and path."""

    def __init__(self, routes: Sequence[RawRoute]) -> None:
        self._exact = {(method, route.path): route for route in routes for method in route.methods or ()}
        self._templates = [route for route in routes if "{" in route.path]
        self._by_address: dict[bytes, tuple[RawRoute, Mapping[str, str]] | None] = {}
        self.heads: dict[bytes, Head] = {}
        """Heads that came before, by their bytes, for `shared.web.express`."""

    def find(self, scope: AsgiScope) -> tuple[RawRoute, Mapping[str, str]] | None:
        """The route for a request, with its path parameters."""
        method, path = scope["method"], scope["path"]
        if (found := self._exact.get((method, path))) is not None:
            return found, NO_PARAMETERS
        for route in self._templates:
            if method in (route.methods or ()) and (match := route.path_regex.match(path)):
                return route, match.groupdict()
        return None

    def express(self, method: bytes, address: bytes) -> tuple[RawRoute, Mapping[str, str]] | None:
        """The route with an express handler for a POST to an address as it stands in the request."""
        if method != b"POST":
            return None
        try:
            return self._by_address[address]
        except KeyError:
            plain = address.isascii() and not any(sign in address for sign in b"?%#\0")
            found = self.find({"method": "POST", "path": address.decode("ascii")}) if plain else None
            if found is not None and found[0].express is None:
                found = None
            if len(self._by_address) >= MOST_ADDRESSES:
                self._by_address.clear()
            self._by_address[address] = found
            return found

    def remember(self, data: bytes, head: Head) -> None:
        """Know a head again by its bytes, if it may come again.

        Args:
            data: what stood before and in an answered request up to the first empty line.
            head: what the parser made of it.
        """
        # A line each and no other. With more, the empty line may be one before the request: whoever sent it would be taken for the
        # one whose request came behind it.
        lines = data.count(b"\n")
        if lines != len(head.headers) + 2 or lines > MOST_LINES or not UNIQUE.isdisjoint(head.headers):
            return
        if len(self.heads) >= MOST_HEADS:
            self.heads.clear()
        self.heads[data] = head
