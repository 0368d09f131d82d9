"""Whether the service of this container answers requests, as the exit status; what it says, as a line."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.error
import urllib.request

scheme = "https" if "NUMOE_TLS_CERTIFICATE" in os.environ else "http"
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it asks itself, by another name than clients do
port = os.environ["NUMOE_HTTP_ADDRESS"].rpartition(":")[2]
try:
    with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}/readyz", timeout=5, context=context) as answer:
        sys.stdout.write(answer.read().decode())
except urllib.error.HTTPError as error:  # it answers that it cannot
    sys.exit(error.read().decode())
except OSError as error:
    sys.exit(str(error))
