"""Whether the service of this container answers requests, as the exit status; what it says, as a line."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request

port = os.environ["NUMOE_HTTP_ADDRESS"].rpartition(":")[2]
try:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
        sys.stdout.write(answer.read().decode())
except urllib.error.HTTPError as error:  # it answers that it cannot
    sys.exit(error.read().decode())
except OSError as error:
    sys.exit(str(error))
