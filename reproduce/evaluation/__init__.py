"""From finished runs to numbers: statistics, tables, published numbers, verification.

For notebooks: ``from reproduce.evaluation import load_runs, load_predictions, load_history``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reproduce.evaluation.frames import load_history, load_predictions, load_runs

__all__ = ["load_history", "load_predictions", "load_runs"]


def __getattr__(name: str) -> Any:
    """One of ``__all__``, whose imports scripts that do not ask for it need not wait for."""
    if name in __all__:
        from reproduce.evaluation import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
