"""The cache of answers, each with the versions of the documents that it used.

An entry names the `path@version` of every passage that its answer used. The indexer raises the *minimum version*
of a document before it commits a new version and again after: entries below the minimum are evicted,
refused when they are stored late, and never served. An answer of "not in the documents" depends on
every document, so it lives only as long as the collection's *epoch*, which every commit advances.

    ragbus:{tenant/collection}:answer:<key>    string: the entry, as JSON
    ragbus:{tenant/collection}:uses:<path>     sorted set: the keys of entries that used it, scored by when they end
    ragbus:{tenant/collection}:minimum         hash: path -> the lowest version that may be served
    ragbus:{tenant/collection}:epoch           number of commits

The braces keep a collection's keys in one slot of a Redis cluster. Tenant and collection are written `escaped`.
"""

import hmac
import json
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shared.contracts.ids import escaped
from shared.contracts.outcome import Outcome, RequestOutcome
from shared.contracts.request import Turn
from shared.redis import FailFastRedis

# Raise it when cached entries are made in another way; earlier entries are then not found.
FORM = 3

# KEYS: entry, minimum, epoch, then `uses` of each document
# ARGV: entry, seconds to live, epoch before the search, 1 if it depends on the epoch, then path and version of each
# Returns 1 if it was stored, 0 if a document or the epoch has changed since the search.
_STORE = """
local epoch = redis.call('GET', KEYS[3]) or '0'
if ARGV[4] == '1' and epoch ~= ARGV[3] then return 0 end
for i = 5, #ARGV, 2 do
  local minimum = redis.call('HGET', KEYS[2], ARGV[i])
  if minimum and tonumber(minimum) > tonumber(ARGV[i + 1]) then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
local now = tonumber(redis.call('TIME')[1])
for i = 4, #KEYS do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  redis.call('ZADD', KEYS[i], now + tonumber(ARGV[2]), KEYS[1])
  if redis.call('TTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[i], ARGV[2]) end
end
return 1
"""

# KEYS: entry, minimum, epoch
# Returns the entry; nil if there is none, or it is outdated and was deleted.
_FIND = """
local body = redis.call('GET', KEYS[1])
if not body then return nil end
local entry = cjson.decode(body)
local fresh = not entry.bound or entry.epoch == (redis.call('GET', KEYS[3]) or '0')
for _, used in ipairs(entry.uses) do
  local minimum = redis.call('HGET', KEYS[2], used[1])
  if minimum and tonumber(minimum) > used[2] then fresh = false end
end
if fresh then return body end
redis.call('DEL', KEYS[1])
return nil
"""

# KEYS: `uses` of the document, minimum, epoch   ARGV: path, version
# Returns the number of evicted entries.
_INVALIDATE = """
local minimum = tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or '0')
if tonumber(ARGV[2]) > minimum then redis.call('HSET', KEYS[2], ARGV[1], ARGV[2]) end
redis.call('INCR', KEYS[3])
local entries = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, entry in ipairs(entries) do redis.call('DEL', entry) end
redis.call('DEL', KEYS[1])
return #entries
"""


@dataclass(frozen=True, slots=True)
class CachePartition:
    """The part of the cache that belongs to one tenant's collection."""

    tenant: str
    collection: str

    def key(self, *rest: str) -> str:
        """A Redis key in this partition."""
        return ":".join((f"ragbus:{{{escaped(self.tenant)}/{escaped(self.collection)}}}", *rest))


class AnswerCache:
    """Finds, stores and invalidates answers. Every method raises `RedisUnavailable`."""

    def __init__(self, redis: FailFastRedis) -> None:
        self._redis = redis

    async def find(self, partition: CachePartition, key: str) -> RequestOutcome | None:
        """The answer under `key`; None if there is none, or a document that it used has a newer version."""
        body = await self._redis.script(_FIND, [*self._keys(partition, key)], [])
        return RequestOutcome.model_validate(json.loads(body)["answer"]) if body else None

    async def store(
        self,
        partition: CachePartition,
        key: str,
        answer: RequestOutcome,
        *,
        epoch: int,
        ttl: int,
        uses: Collection[tuple[str, int]] | None = None,
    ) -> bool:
        """Keep `answer` for `ttl` seconds; False if a document that it used has changed since the search.

        `epoch`: the result of `epoch()` before the search. `uses`: (path, version) of each document; None: as cited.
        """
        cited = {(citation.path, citation.version) for citation in answer.citations}
        uses = sorted(cited if uses is None else uses)
        bound = answer.outcome is Outcome.NO_ANSWER
        about = json.dumps({"uses": uses, "bound": bound, "epoch": str(epoch)})
        body = f'{{"answer": {answer.encode().decode()}, {about[1:]}'
        keys = [*self._keys(partition, key), *(partition.key("uses", path) for path, _ in uses)]
        pairs = [part for use in uses for part in use]
        return bool(await self._redis.script(_STORE, keys, [body, ttl, epoch, int(bound), *pairs]))

    async def epoch(self, tenant: str, collection: str) -> int:
        """The number of commits to the collection so far."""
        return int(await self._redis.run(lambda redis: redis.get(CachePartition(tenant, collection).key("epoch"))) or 0)

    async def invalidate(self, tenant: str, collection: str, path: str, version: int) -> int:
        """Evict answers that used `path`, and refuse those of a version below `version` from now on.

        Returns how many were evicted.
        """
        partition = CachePartition(tenant, collection)
        keys = [partition.key("uses", path), partition.key("minimum"), partition.key("epoch")]
        return int(await self._redis.script(_INVALIDATE, keys, [path, version]))

    @staticmethod
    def _keys(partition: CachePartition, key: str) -> tuple[str, str, str]:
        return partition.key("answer", key), partition.key("minimum"), partition.key("epoch")


def answer_key(
    secret: str, *, tenant: str, acl_class: str, use_case: str, version: str, question: str, turns: Sequence[Turn]
) -> str:
    """The cache key of an answer: equal only for the same question, use case and rights.

    A keyed hash, so that a reader of Redis cannot test guesses of what was asked.
    """
    conversation = [[turn.role, normalise(turn.text)] for turn in turns]
    scope = json.dumps([FORM, tenant, acl_class, use_case, version, conversation, normalise(question)])
    return hmac.new(secret.encode(), scope.encode(), "sha256").hexdigest()


def normalise(text: str) -> str:
    """`text` without differences of case, spacing, Unicode form and closing punctuation.

    NFC, because NFKC would turn `10⁵` into `105`; and `US` among other words is not `us`.
    """
    shouted = text.isupper()
    words = unicodedata.normalize("NFC", text).split()
    folded = (word if word.isupper() and len(word) > 1 and not shouted else word.casefold() for word in words)
    return " ".join(folded).rstrip(" ?!.")
