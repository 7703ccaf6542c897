"""What ends a replay early."""


class DemoFailed(Exception):
    """The loop broke one of its promises, or the replay cannot start; the message says which and what to look at."""
