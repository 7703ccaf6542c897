"""What only serving can refuse, below the one exception tree of `shared.errors`.

RelevoError
├── Conflict
│   ├── GenerationMoved     409  the pointer changed since the caller looked
│   ├── StagesMoved         409  the stages changed since the caller looked
│   ├── NotValidated        409  no verdict promotes the version, and no override was given
│   ├── NothingDeployed     409  no version is live, so that none can stand beside it
│   ├── NotLoadable         409  the version's artifact cannot serve on this replica
│   └── NothingToRollBack   409  no version was live before
├── TooMany
│   └── KeyTooFast          429  an API key asks for predictions more often than it may
└── Unavailable
    ├── DeadlinePassed      503  the time in which the answer is of use is over, or would be before it is scored
    ├── LogFull             503  too many predictions wait to reach the registry
    ├── LogUnwritable       503  the disk does not take the prediction's record
    └── Overloaded          503  it would wait longer than is allowed
"""

from shared.errors import Conflict, TooMany, Unavailable


class GenerationMoved(Conflict):
    """The deployment pointer changed since the caller looked."""

    slug = "generation-moved"


class StagesMoved(Conflict):
    """The post-processing stages changed since the caller looked."""

    slug = "stages-moved"


class NotValidated(Conflict):
    """No verdict promotes this version."""

    slug = "not-validated"


class NothingDeployed(Conflict):
    """No version is live, so that none can stand beside it."""

    slug = "nothing-deployed"


class NotLoadable(Conflict):
    """This version's artifact cannot serve."""

    slug = "not-loadable"


class NothingToRollBack(Conflict):
    """No version was live before the current one."""

    slug = "nothing-to-roll-back"


class KeyTooFast(TooMany):
    """An API key asks for predictions more often than it may."""

    slug = "key-too-fast"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("This API key asks for predictions more often than it may on this replica; try again later.")
        self.retry_after_s = retry_after_s


class Overloaded(Unavailable):
    """It would wait longer than is allowed."""

    slug = "overloaded"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("This replica has more to score than it can in time; nothing was scored or logged. Try again.")
        self.retry_after_s = retry_after_s


class DeadlinePassed(Unavailable):
    """The time in which the answer is of use is over, or would be before it is scored."""

    slug = "deadline-exceeded"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(
            "It cannot be scored within the time that the request allows (X-Relevo-Timeout-Ms); nothing was scored or logged."
        )
        self.retry_after_s = retry_after_s


class LogFull(Unavailable):
    """Too many predictions wait to reach the registry."""

    slug, retry_after_s = "prediction-log-full", 10


class LogUnwritable(Unavailable):
    """The disk does not take the prediction's record."""

    slug, retry_after_s = "prediction-log-unwritable", 10
