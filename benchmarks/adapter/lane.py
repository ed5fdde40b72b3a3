"""One lane in a process of its own, until it is killed: `python -m benchmarks.adapter.lane NAME CONNECTION_STRING`."""

import argparse
import asyncio

from azure.servicebus.aio import ServiceBusClient

from benchmarks.adapter import ours
from benchmarks.adapter.lanes import LANES
from benchmarks.adapter.stages import Load

# Whether it reads as the pump does, or as the public API.
OURS = {"ours": True, "public": False}


async def run(name: str, connection_string: str, load: Load) -> None:
    """Run all stages of the lane."""
    if name == "adapter":
        return await ours.adapter(connection_string, load)
    if name in OURS:
        return await ours.run(connection_string, load, pumped=OURS[name])
    async with ServiceBusClient.from_connection_string(connection_string) as client, asyncio.TaskGroup() as stages:
        for stage in load.path:
            stages.create_task(LANES[name](client, stage, load))
    return None


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser("benchmarks.adapter.lane")
    parser.add_argument("name", choices=[*LANES, "adapter", *OURS])
    parser.add_argument("connection_string")
    parser.add_argument("--stages", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--work", type=float, required=True)
    options = parser.parse_args()
    asyncio.run(run(options.name, options.connection_string, Load(options.stages, options.slots, options.work)))


if __name__ == "__main__":
    main()
