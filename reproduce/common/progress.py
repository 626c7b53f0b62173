"""Long work says how far it is, how fast, how much longer: by a bar in a terminal, by plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

PLAIN_INTERVAL = 10.0  # seconds between lines where the output is no terminal
TERMINAL_INTERVAL = 0.2


class Progress:
    """Shows tqdm's bar in a terminal; elsewhere lines, of which schedulers read the last.

    Args:
        what: the work.
        unit: of its pieces; without one their numbers are not shown.
        enabled: False on ranks other than the first.
    """

    def __init__(self, what: str, unit: str, enabled: bool = True) -> None:
        self.what, self.unit, self.enabled = what, unit, enabled
        self.terminal = sys.stdout.isatty()
        self.started = time.perf_counter()
        self.printed = self.started
        self.state: tuple[float, float, str] | None = None
        self.bar: Any = None

    def update(self, done: float, total: float, extra: str = "") -> None:
        """Say how much is done; prints at most every few seconds.

        Args:
            done, total: amounts in any one unit; ``total`` 0 if unknown.
            extra: further words, such as a rate.
        """
        now = time.perf_counter()
        self.state = done, total, extra
        if not self.enabled or now - self.printed < (TERMINAL_INTERVAL if self.terminal else PLAIN_INTERVAL):
            return
        self.printed = now
        if self.terminal:
            self._draw(now)
            return
        share = done / total if total else 0.0
        left = f", {duration((now - self.started) * (1 - share) / share)} left" if 0 < share < 1 else ""
        print(self._line() + left, flush=True)

    def close(self, extra: str = "") -> None:
        """Print the final state with the time taken."""
        if not self.enabled or not (self.state or extra):
            return
        now = time.perf_counter()
        if self.terminal and self.state:
            self.state = (*self.state[:2], ", ".join(filter(None, (self.state[2], extra))))
            self._draw(now)
            self.bar.close()
        else:
            print(f"{self._line()}{f', {extra}' if extra else ''}, took {duration(now - self.started)}", flush=True)

    def _draw(self, now: float) -> None:
        assert self.state is not None
        done, total, extra = self.state
        if self.bar is None:
            self.bar = _bar(self.what, self.unit, now - self.started)
        self.bar.n, self.bar.total = round(done), round(total) or None
        amount = " {n_fmt}/{total_fmt} {unit}" if self.unit else ""
        known = f"{{desc}}: {{percentage:3.0f}}%|{{bar}}|{amount} [{{elapsed}}<{{remaining}}{{postfix}}]"
        self.bar.bar_format = known if self.bar.total else "{desc}: {n_fmt} {unit} [{elapsed}{postfix}]"
        self.bar.set_postfix_str(extra)

    def _line(self) -> str:
        if self.state is None:
            return self.what
        done, total, extra = self.state
        amount = f"{done:.0f}/{total:.0f} {self.unit}" if self.unit else f"{done / total if total else 0:.0%}"
        return f"{self.what}: {amount}{f', {extra}' if extra else ''}"


def _bar(what: str, unit: str, elapsed: float) -> Any:
    from tqdm import tqdm  # 40 ms

    class Bar(tqdm):
        monitor_interval = 0  # no thread beside processes that fork

    Bar.set_lock(threading.RLock())  # its own is one of multiprocessing, which may start a process for it
    bar = Bar(desc=what, unit=unit, file=sys.stdout, position=0, dynamic_ncols=True, bar_format="{desc}")
    bar.start_t -= elapsed
    return bar


def duration(seconds: float) -> str:
    """Write a time as ``45 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
