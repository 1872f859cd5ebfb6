"""A parser of flags whose errors are one line and name the nearest flag."""

from __future__ import annotations

import argparse
import sys
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
