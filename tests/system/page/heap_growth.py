"""How much the page's heap grows while it is open: python -m tests.system.page.heap_growth 127.0.0.1:50152 [MINUTES]

It is no test, as it takes minutes: ten of them must grow the heap by less than 10 MB. The service should be at work.
"""

from __future__ import annotations

import sys

import structlog
from playwright.sync_api import CDPSession

from tests.system.page.browser import open_page

SETTLED_MILLISECONDS = 10_000  # until all that is made once is made
MOST_GROWTH = 10e6  # bytes in ten minutes

_log = structlog.get_logger()


def heap_bytes(session: CDPSession) -> int:
    """What is in use once all garbage is gone."""
    session.send("HeapProfiler.collectGarbage")
    return int(session.send("Runtime.getHeapUsage")["usedSize"])


def main(http: str, minutes: float = 10.0) -> int:
    """The exit status: 1 if the heap grows too fast."""
    with open_page(http) as (page, faults):
        session = page.context.new_cdp_session(page)
        page.wait_for_timeout(SETTLED_MILLISECONDS)
        before, messages = heap_bytes(session), page.evaluate("messagesSeen")
        page.wait_for_timeout(minutes * 60_000)
        growth = heap_bytes(session) - before
        seen = page.evaluate("messagesSeen") - messages
    _log.info("heap", minutes=minutes, messages=seen, before=before, growth=growth, faults=faults.found)
    return int(growth > MOST_GROWTH * minutes / 10 or bool(faults.found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(float, sys.argv[2:])))
