"""What only serving can refuse, below the one exception tree of `shared.errors`.

RelevoError
├── Conflict
│   ├── GenerationMoved     409  the pointer changed since the caller looked
│   ├── StagesMoved         409  the stages changed since the caller looked
│   ├── NotValidated        409  no verdict promotes the version, and no override was given
│   ├── NothingDeployed     409  no version is live, so that none can stand beside it
│   ├── NotLoadable         409  the version's artifact cannot serve on this replica
│   └── NothingToRollBack   409  no version was live before
└── Unavailable
    ├── LogFull             503  too many predictions wait to reach the registry
    └── LogUnwritable       503  the disk does not take the prediction's record
"""

from shared.errors import Conflict, Unavailable


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


class LogFull(Unavailable):
    """Too many predictions wait to reach the registry."""

    slug, retry_after_s = "prediction-log-full", 10


class LogUnwritable(Unavailable):
    """The disk does not take the prediction's record."""

    slug, retry_after_s = "prediction-log-unwritable", 10
