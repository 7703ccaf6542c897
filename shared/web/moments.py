"""A moment in a body or query: ISO 8601 with an offset, and nothing else.

Pydantic alone would take a bare number as seconds or milliseconds by its size, where the rows of this API have epoch microseconds.
"""

import re
from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator

_DAY_AND_TIME = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ].+")


def _text(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and _DAY_AND_TIME.fullmatch(value)):
        return value
    raise ValueError("must be ISO 8601 with an offset, such as 2013-03-01T08:00:00Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_text)]
