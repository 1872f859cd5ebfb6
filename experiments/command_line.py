"""What commands share: flags whose errors name the nearest flag, and errors of a user told in one line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, but that a wrong flag gets no page of usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the command with status 2."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = [word for word in message.split() if word.startswith("-") and word.partition("=")[0] not in flags]
        close = get_close_matches(wrong[0].partition("=")[0], flags, n=1) if wrong else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"error: {message}{hint} (all flags: {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def exit_status(work: Callable[[], object], *, kept: str | None = None) -> int:
    """Does the work; returns 0, 1 for an error that the user can mend, told in one line, or 130 when interrupted.

    Args:
        kept: what an interruption leaves, in words; None where it leaves nothing.
    """
    from experiments.errors import user_errors

    try:
        work()
    except user_errors() as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = f"; {kept} are kept, the same command goes on from there" if kept else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
    return 0
