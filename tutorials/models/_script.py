"""What the scripts share: a table of results, and errors in one message."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from estimator import EstimatorError


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Results as a table in Markdown, a row for each dict."""
    cells = [[str(round(v, 3) if isinstance(v, float) else v) for v in r.values()] for r in rows]
    lines = [[*rows[0]], ["---"] * len(rows[0]), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def run(main: Callable[[], None]) -> None:
    """Calls `main`; what is wrong with data or arguments is said in one message."""
    try:
        main()
    except EstimatorError as error:
        sys.exit(str(error))
