"""Status 0 if an HTTP address answers 200; for containers, which have no curl.

healthcheck.py                     this worker's /healthz, once
healthcheck.py URL SECONDS         another service, every second until it does, or the time is over
"""

import os
import sys
import time
import urllib.request


def healthy(url: str) -> bool:
    """Whether a GET of `url` is answered with 200; no proxy is used."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=3) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def becomes_healthy(url: str, patience: float) -> bool:
    """Whether `url` is healthy within `patience` seconds; it is asked at least once."""
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
