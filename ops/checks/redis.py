"""Whether Redis accepts writes, and is new enough."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from ops.checks.http import PATIENCE
from ops.findings import Finding, Level
from ops.target import Target

# The oldest version with all our commands; every supported Azure Cache is newer.
OLDEST_REDIS = (6, 2)


def redis(at: Target) -> Iterator[Finding]:
    """Whether Redis accepts a write on every node, and is new enough."""
    yield asyncio.run(_redis(at.redis_url))


async def _redis(url: str) -> Finding:
    from shared.redis import FailFastRedis, RedisUnavailable

    quick = FailFastRedis(url, timeout=PATIENCE, patience=PATIENCE)
    try:
        nodes = await quick.probe()
        info: dict[str, Any] = await quick.run(lambda redis: redis.info("server"))
    except RedisUnavailable as unavailable:
        return redis_refusal(str(unavailable))
    except ValueError as wrong:
        return Finding(Level.FAIL, "redis", f"not a Redis URL ({wrong})", "correct RAGBUS_REDIS_URL")
    finally:
        await quick.close()
    return redis_version(str(info.get("redis_version", "0")), str(info.get("valkey_version", "")), nodes)


# Words in Redis' refusal of a write, and the fix.
_REFUSALS: Mapping[str, str] = {
    "WRONGPASS": "correct the password in RAGBUS_REDIS_URL",
    "invalid username-password": "correct the password in RAGBUS_REDIS_URL",
    "Authentication required": "put the password into RAGBUS_REDIS_URL",
    "no permissions": "allow its user to run scripts and to write keys that begin with ragbus:",
    "read only replica": "point RAGBUS_REDIS_URL to the primary",
    "used memory": "give it more memory, or allow eviction (maxmemory-policy volatile-lru)",
    "persist": "repair its disk, or set stop-writes-on-bgsave-error no",
    "not served": "assign every hash slot of the cluster to a node",
    "cluster is down": "start the missing nodes, or let replicas take over",
    "loading": "wait until it has loaded its data",
    "SELECT is not allowed": "end RAGBUS_REDIS_URL in /0: a cluster has one database",
    "certificate": "use the host name of its certificate in RAGBUS_REDIS_URL",
}


def redis_refusal(said: str) -> Finding:
    """Why the workers cannot use Redis, and the fix."""
    for words, fix in _REFUSALS.items():
        if words.lower() in said.lower():
            return Finding(Level.FAIL, "redis", f"refuses the workers' writes ({said})", fix)
    return Finding(Level.FAIL, "redis", f"does not accept a write ({said})", "start it, or correct RAGBUS_REDIS_URL")


def redis_version(version: str, valkey: str = "", nodes: int = 1) -> Finding:
    """Whether the version is new enough. `nodes`: the number of nodes of a cluster."""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    said = f"Valkey {valkey} (as Redis {version})" if valkey else f"Redis {version}"
    if numbers < OLDEST_REDIS:
        return Finding(Level.FAIL, "redis", f"{said} is too old", "use 6.2 or newer, or Valkey")
    return Finding(Level.OK, "redis", f"{said}, a cluster of {nodes} nodes" if nodes > 1 else said)
