"""Progress of long work: what, how far, how fast, how much longer. A line that rewrites itself, or plain lines."""

from __future__ import annotations

import sys
import time

PLAIN_INTERVAL = 10.0  # seconds between lines where the output is no terminal
TERMINAL_INTERVAL = 0.2


class Progress:
    """A progress line.

    Args:
        what: the work.
        unit: of its pieces.
        enabled: False on ranks other than the first.
    """

    def __init__(self, what: str, unit: str, enabled: bool = True) -> None:
        self.what, self.unit, self.enabled = what, unit, enabled
        self.terminal = sys.stdout.isatty()
        self.started = time.perf_counter()
        self.printed = self.started
        self.line = ""

    def update(self, done: float, total: float, extra: str = "") -> None:
        """Say how much is done; prints at most every few seconds.

        Args:
            done, total: amounts in any one unit; ``total`` 0 if unknown.
            extra: further words, such as a rate.
        """
        now = time.perf_counter()
        share = done / total if total else 0.0
        elapsed = now - self.started
        left = f", {duration(elapsed * (1 - share) / share)} left" if 0 < share < 1 else ""
        amount = f"{done:.0f}/{total:.0f} {self.unit}" if self.unit else f"{share:.0%}"
        self.line = f"{self.what}: {amount}{f', {extra}' if extra else ''}"
        if self.enabled and now - self.printed >= (TERMINAL_INTERVAL if self.terminal else PLAIN_INTERVAL):
            self.printed = now
            self._print(self.line + left)

    def close(self, extra: str = "") -> None:
        """Print the final state with the time taken."""
        if self.enabled and (self.line or extra):
            took = duration(time.perf_counter() - self.started)
            self._print(f"{self.line or self.what}{f', {extra}' if extra else ''}, took {took}")
            if self.terminal:
                print(flush=True)

    def _print(self, text: str) -> None:
        if self.terminal:
            print(f"\r\x1b[K{text[:200]}", end="", flush=True)
        else:
            print(text, flush=True)


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
