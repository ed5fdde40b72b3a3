"""One lane in a process of its own, until it is killed: `python -m benchmarks.adapter.lane NAME CONNECTION_STRING`."""

import argparse
import asyncio

from azure.servicebus.aio import ServiceBusClient

from benchmarks.adapter import worker
from benchmarks.adapter.lanes import lane
from benchmarks.adapter.stages import Load


async def run(name: str, connection_string: str, load: Load) -> None:
    """Run all stages of the lane."""
    if name == "worker":
        return await worker.run(connection_string, load)
    async with ServiceBusClient.from_connection_string(connection_string) as client, asyncio.TaskGroup() as stages:
        for stage in load.path:
            stages.create_task(lane(name, load.slots)(client, stage, load))
    return None


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser("benchmarks.adapter.lane")
    parser.add_argument("name")
    parser.add_argument("connection_string")
    parser.add_argument("--stages", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--work", type=float, required=True)
    options = parser.parse_args()
    asyncio.run(run(options.name, options.connection_string, Load(options.stages, options.slots, options.work)))


if __name__ == "__main__":
    main()
