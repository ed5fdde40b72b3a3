"""Status 0 once an HTTP address answers 200; for containers, where there is no curl.

healthcheck.py                     this worker's /healthz, once
healthcheck.py URL SECONDS         another service, asked every second for that long
"""

import os
import sys
import time
import urllib.request


def healthy(url: str) -> bool:
    """Whether a GET of `url` is answered with 200, without any proxy in between."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def becomes_healthy(url: str, patience: float) -> bool:
    """Whether it does so within `patience` seconds; it is asked once at least."""
    give_up = time.monotonic() + patience
    while not healthy(url):
        if time.monotonic() >= give_up:
            return False
        time.sleep(1)
    return True


if __name__ == "__main__":
    own = f"http://127.0.0.1:{os.environ.get('RAGBUS_HEALTH_PORT', '8081')}/healthz"
    url, patience = (*sys.argv[1:], *(own, "0")[len(sys.argv) - 1 :])
    sys.exit(not becomes_healthy(url, float(patience)))
