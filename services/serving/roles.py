"""As what a version answers a request: on its lease, in the log and in the metrics."""

from enum import StrEnum


class Role(StrEnum):
    """As what a version answers a request."""

    LIVE = "live"  #: as the live version
    CANARY = "canary"  #: in the live version's stead, for its share of the keys
    PINNED = "pinned"  #: because the caller named it; kept out of datasets and live monitoring
