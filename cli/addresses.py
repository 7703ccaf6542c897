"""Where the four services answer and with which key: from a stack's `stack.json`, or from the environment."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = Path(".relevo")
SERVICES = ("serving", "data", "trainer", "validator")


class NoAddresses(Exception):
    """Neither a stack's home nor the environment says where the services are."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base addresses of the services, and the API key to use with all of them."""

    serving: str
    data: str
    trainer: str
    validator: str
    key: str

    def of(self, service: str) -> str:
        """The base address of one of `SERVICES`, without a slash at the end."""
        return str(getattr(self, service)).rstrip("/")


def find(home: Path | None, environment: Mapping[str, str] = os.environ) -> Addresses:
    """The addresses of the stack in `home`; without one, those of the environment, else of the stack in `.relevo`.

    Raises:
        NoAddresses: there are none, or `stack.json` cannot be read; the message names the cure.
    """
    if home is None and (named := [s for s in SERVICES if environment.get(f"RELEVO_{s.upper()}_URL")]):
        missing = [f"RELEVO_{s.upper()}_URL" for s in SERVICES if s not in named]
        if not environment.get("RELEVO_API_KEY"):
            missing.append("RELEVO_API_KEY")
        if missing:
            raise NoAddresses(
                f"The environment names some services, but not all that is needed: set {', '.join(missing)}."
            )
        return Addresses(
            **{s: environment[f"RELEVO_{s.upper()}_URL"] for s in SERVICES}, key=environment["RELEVO_API_KEY"]
        )
    return of_stack(home or DEFAULT_HOME)


def of_stack(home: Path) -> Addresses:
    """The addresses and the admin key of the stack that runs in `home`.

    Raises:
        NoAddresses: no stack runs there, or its `stack.json` cannot be read.
    """
    path = home / "stack.json"
    try:
        stack = json.loads(path.read_text())
        return Addresses(**{service: str(stack[service]) for service in SERVICES}, key=str(stack["admin_key"]))
    except FileNotFoundError:
        raise NoAddresses(
            f"There is no stack in {home} ({path.name} is not there). Start one with `relevo up --detach --home {home}`, "
            "or set RELEVO_SERVING_URL, RELEVO_DATA_URL, RELEVO_TRAINER_URL, RELEVO_VALIDATOR_URL and RELEVO_API_KEY."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoAddresses(
            f"{path} cannot be read ({type(error).__name__}). Restart the stack: `relevo down --home {home}`, then `relevo up`."
        ) from None
