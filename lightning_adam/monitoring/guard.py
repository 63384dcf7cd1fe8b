"""A monitor that fails says so once, and the training goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from lightning_adam.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")
LOG = logging.getLogger("lightning_adam")


class Guard:
    """Lets no exception of a monitor reach the training.

    What failed is tried again the next time; each part is told about once.

    Attributes:
        failures: what has failed so far, by the names of the parts.
    """

    def __init__(self) -> None:
        self.failures: set[str] = set()

    def run(self, part: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
        """Call the function; whether it came to its end.

        Args:
            part: what is lost if it fails, as a noun: ``"a logged step of adam"``.
            function: may raise anything.
            *args: for the function.
            **kwargs: for the function.

        Raises:
            ConfigError: a wrong argument of the user's, who is to see it.
        """
        try:
            function(*args, **kwargs)
        except ConfigError:
            raise
        except Exception as error:
            self.tell(part, f"{type(error).__name__}: {error}")
            return False
        return True

    def value(self, part: str, otherwise: T, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns; ``otherwise`` where it raises. Arguments and exceptions as :meth:`run`'s."""
        found = [otherwise]
        self.run(part, lambda: found.append(function(*args, **kwargs)))
        return found[-1]

    def tell(self, part: str, reason: str) -> None:
        """That a part has failed, once.

        Args:
            part: as in :meth:`run`.
            reason: what it raised.
        """
        if part not in self.failures:
            self.failures.add(part)
            LOG.warning("The monitor lost %s; training goes on, and so does the rest of the monitor. %s", part, reason)
