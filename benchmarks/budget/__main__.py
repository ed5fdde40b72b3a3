"""What a budget lets through under load, and its CPU: `python -m benchmarks.budget [--litellm PYTHON]`.

200 callers in four processes, with one Redis, ask again and again for calls that take 50 ms, until each has asked five
times; the budget pays for about 100 calls. `--litellm`: a Python that has litellm and redis (`pip install litellm
redis` in a venv of its own), which runs the same load on LiteLLM's budget limiter. Prints a table.
"""

import argparse
import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from redis import Redis

from local.stack.redis import command

LIMIT, SECONDS, PROCESSES, CALLERS, ASKS = 1.0, 0.05, 4, 50, 5
HERE = Path(__file__).parent


def lane(words: list[str], port: int) -> dict[str, float]:
    """The sums of four processes with the same Redis, and the CPU of Redis."""
    with Redis(port=port) as redis:
        redis.flushall()
        before = _cpu(redis)
        args = [str(port), str(CALLERS), str(ASKS), str(LIMIT), str(SECONDS)]
        running = [subprocess.Popen([*words, *args], stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
        said = [json.loads(each.communicate(timeout=600)[0].splitlines()[-1]) for each in running]
        found = {name: sum(float(each[name]) for each in said) for name in ("made", "refused", "usd", "cpu")}
        return {**found, "redis": _cpu(redis) - before}


def _cpu(redis: "Redis") -> float:
    found = redis.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def main() -> None:
    """Run the lanes and print what came of them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--litellm", metavar="PYTHON", help="a Python that has litellm and redis")
    given = options.parse_args()
    lanes = {"ragbus": [sys.executable, "-m", "benchmarks.budget.our_lane"]}
    if given.litellm:
        lanes["LiteLLM"] = [given.litellm, str(HERE / "litellm_lane.py")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(command(port, Path(folder)), stdout=subprocess.DEVNULL)
        try:
            with Redis(port=port, retry_on_error=[ConnectionError]) as redis:
                while True:
                    try:
                        redis.ping()
                        break
                    except Exception:  # noqa: BLE001 - it is starting
                        continue
            print("| lane | calls | refused | spent of $1.00 | CPU ms per ask | Redis CPU ms per ask |")
            print("|---|--:|--:|--:|--:|--:|")
            for name, words in lanes.items():
                found = lane(words, port)
                asked = found["made"] + found["refused"]
                print(
                    f"| {name} | {found['made']:.0f} | {found['refused']:.0f} | ${found['usd']:.2f} "
                    f"| {found['cpu'] * 1_000 / asked:.2f} | {found['redis'] * 1_000 / asked:.2f} |"
                )
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
