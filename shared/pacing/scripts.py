"""The rules of `rules.py` as Lua scripts; `tests/conformance/test_pacing.py` compares the two.

All keys of a deployment are in one hash slot. All times are seconds of Redis's clock, except deadlines, which are only
compared with one another.

pace    hash: the numbers of `Pace` by their names, and limit_tokens, limit_requests
served  hash: flow -> finish tag
line    hash: who -> "due since tokens lapses flow"
"""

from collections.abc import Mapping

from shared.contracts.ids import escaped
from shared.pacing.rules import (
    ARRIVES,
    BACKOFF,
    CUSHION,
    GRACE,
    LONGEST_BACKOFF,
    MINUTE,
    PLACES,
    REQUESTS_BURST,
    RESERVE,
    SPACING,
    Pace,
    Quota,
)

# Seconds without a call after which the state of a deployment is forgotten: every bucket is full again by then.
KEEP = 3600


def keys(deployment: str) -> list[str]:
    """The keys of a deployment: pace, served, line."""
    return [f"ragbus:{{{escaped(deployment)}}}:{name}" for name in ("pace", "served", "line")]


def read(stored: Mapping[str, str]) -> Pace:
    """What the hash `pace` holds, without `served` and the line."""
    known = {name: float(value) for name, value in stored.items()}
    limit = Quota(known.pop("limit_tokens", 0.0), known.pop("limit_requests", 0.0))
    return Pace(limit=limit, **known)  # type: ignore[arg-type]  # its other numbers


# ARGV of every script: tokens and requests per minute as configured, then what the script names.
_COMMON = (
    f"""
local MINUTE, RESERVE, SPACING, GRACE, KEEP = {MINUTE}, {RESERVE}, {SPACING}, {GRACE}, {KEEP}
local BURST, ARRIVES, CUSHION, PLACES = {REQUESTS_BURST}, {ARRIVES}, {CUSHION}, {PLACES}
local BACKOFF, LONGEST_BACKOFF = {BACKOFF}, {LONGEST_BACKOFF}
"""
    + """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local function exact(number) return string.format('%.17g', number) end
local function least(one, other)
  if one > 0 and other > 0 then return math.min(one, other) end
  return math.max(one, other)
end
local known = {}
local read = redis.call('HGETALL', KEYS[1])
for i = 1, #read, 2 do known[read[i]] = tonumber(read[i + 1]) end
local at, virtual = known.at or 0, known.virtual or 0
local total_tokens, total_requests = known.total_tokens or 0, known.total_requests or 0
local limit_tokens, limit_requests = known.limit_tokens or 0, known.limit_requests or 0
local tokens, requests = known.tokens, known.requests
local mark_at, mark_total = known.mark_at or 0, known.mark_total or 0
local tail, backoff, backoff_at = known.tail or 0, known.backoff or 0, known.backoff_at or 0
local next_mark_at, next_mark_total = known.next_mark_at or 0, known.next_mark_total or 0
local quota_tokens, quota_requests, tokens_burst, requests_burst
local function limited()
  quota_tokens = least(tonumber(ARGV[1]), limit_tokens)
  quota_requests = least(tonumber(ARGV[2]), limit_requests)
  tokens_burst, requests_burst = quota_tokens, math.max(1, quota_requests * BURST / MINUTE)
end
local function refill()
  local passed = math.max(0, now - at)
  if quota_tokens > 0 then
    tokens = math.min(tokens_burst, (tokens or tokens_burst) + passed * quota_tokens / MINUTE)
  else tokens = nil end
  if quota_requests > 0 then
    requests = math.min(requests_burst, (requests or requests_burst) + passed * quota_requests / MINUTE)
  else requests = nil end
  at = math.max(at, now)
end
local function write()
  redis.call('HSET', KEYS[1], 'at', exact(at), 'virtual', exact(virtual), 'limit_tokens', limit_tokens,
    'limit_requests', limit_requests, 'total_tokens', exact(total_tokens), 'total_requests', exact(total_requests),
    'tail', exact(tail), 'backoff', exact(backoff), 'backoff_at', exact(backoff_at),
    'mark_at', exact(mark_at), 'mark_total', exact(mark_total),
    'next_mark_at', exact(next_mark_at), 'next_mark_total', exact(next_mark_total))
  if tokens then redis.call('HSET', KEYS[1], 'tokens', exact(tokens)) else redis.call('HDEL', KEYS[1], 'tokens') end
  if requests then redis.call('HSET', KEYS[1], 'requests', exact(requests))
  else redis.call('HDEL', KEYS[1], 'requests') end
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, KEEP) end
end
limited()
"""
)

# ARGV: …, who, flow, tokens, due, seconds that it can wait
# Returns {"" when the call is granted, else the seconds until its turn; now, total tokens, total requests, back-off}.
ASK = (
    _COMMON
    + """
local who, flow, wanted, patience = ARGV[3], ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[7])
local reserve = 0
if string.sub(flow, 1, 1) == '1' then reserve = RESERVE end
refill()
local due, since, placed, ingesting = tonumber(ARGV[6]), now, false, 0
local flows, waiting = {}, {}
read = redis.call('HGETALL', KEYS[3])
for i = 1, #read, 2 do
  local his_due, his_since, his_tokens, lapses, his_flow =
    string.match(read[i + 1], '^(%S+) (%S+) (%S+) (%S+) (.*)$')
  if read[i] == who then since, placed = tonumber(his_since), true end
  if tonumber(lapses) <= now then
    redis.call('HDEL', KEYS[3], read[i])
  elseif read[i] ~= who then
    if string.sub(his_flow, 1, 1) == '1' then ingesting = ingesting + 1 end
    waiting[#waiting + 1] = {who = read[i], flow = his_flow, due = tonumber(his_due), since = tonumber(his_since),
      tokens = tonumber(his_tokens)}
  end
end
waiting[#waiting + 1] = {who = who, flow = flow, due = due, since = since, tokens = wanted}
local function sooner(one, other)
  if one.due ~= other.due then return one.due < other.due end
  if one.since ~= other.since then return one.since < other.since end
  return one.who < other.who
end
table.sort(waiting, sooner)
local names = {}
for _, place in ipairs(waiting) do
  if not flows[place.flow] then
    flows[place.flow] = {first = 1}
    names[#names + 1] = place.flow
  end
  table.insert(flows[place.flow], place)
end
local served = {}
read = redis.call('HGETALL', KEYS[2])
for i = 1, #read, 2 do served[read[i]] = tonumber(read[i + 1]) end
for _, name in ipairs(names) do flows[name].tag = math.max(served[name] or 0, virtual) end
local tokens_ahead, requests_ahead = 0, 0
while true do
  local next
  for _, name in ipairs(names) do
    local candidate = flows[name]
    local place = candidate[candidate.first]
    if place then
      local class, best = string.sub(name, 1, 1), next and string.sub(next, 1, 1)
      local before = not next or class < best
      if next and class == best then
        local other = flows[next]
        local his = other[other.first]
        if candidate.tag ~= other.tag then before = candidate.tag < other.tag
        else before = sooner(place, his) end
      end
      if before then next = name end
    end
  end
  local found = flows[next]
  local place = found[found.first]
  if place.who == who then break end
  found.first = found.first + 1
  found.tag = found.tag + place.tokens
  tokens_ahead = tokens_ahead + place.tokens
  requests_ahead = requests_ahead + 1
end

local wait, held_up = math.max(0, at - now), 0
if quota_tokens > 0 then
  local missing = tokens_ahead + math.min(wanted + (CUSHION + reserve) * tokens_burst, tokens_burst) - tokens
  held_up = math.max(held_up, missing * MINUTE / quota_tokens)
end
if quota_requests > 0 then
  local missing = requests_ahead + math.min(1 + reserve * requests_burst, requests_burst) - requests
  held_up = math.max(held_up, missing * MINUTE / quota_requests)
elseif wait > 0 then
  held_up = math.max(held_up, requests_ahead * SPACING)
end
wait = wait + held_up
if wait > 0 then
  if reserve > 0 and not placed and ingesting >= PLACES then
    local by_tokens, by_requests = 0, SPACING
    if quota_tokens > 0 then by_tokens = wanted * MINUTE / quota_tokens end
    if quota_requests > 0 then by_requests = MINUTE / quota_requests end
    tail = math.max(tail, now + wait) + math.max(by_tokens, by_requests)
    wait = tail - now
  elseif wait <= patience then
    local place = {exact(due), exact(since), exact(wanted), exact(now + wait + GRACE), flow}
    redis.call('HSET', KEYS[3], who, table.concat(place, ' '))
  elseif patience ~= 0 then
    redis.call('HDEL', KEYS[3], who)
  end
  write()
  return {exact(wait), exact(now), '0', '0', '0'}
end
local start = math.max(served[flow] or 0, virtual)
for name, tag in pairs(served) do
  if tag <= start then redis.call('HDEL', KEYS[2], name) end
end
redis.call('HSET', KEYS[2], flow, exact(start + wanted))
redis.call('HDEL', KEYS[3], who)
if tokens then tokens = tokens - wanted end
if requests then requests = requests - 1 end
if now - next_mark_at >= ARRIVES then
  mark_at, mark_total, next_mark_at, next_mark_total = next_mark_at, next_mark_total, now, total_tokens
end
virtual, total_tokens, total_requests = start, total_tokens + wanted, total_requests + 1
write()
return {'', exact(now), exact(total_tokens), exact(total_requests), exact(backoff)}
"""
)

# ARGV: …, tokens granted, granted at, total tokens then, limits of tokens and requests as the provider said ('' if it
#       did not), what remains of them ('' if unknown), tokens used ('' if unknown), 1 for a success, else 0
# Returns now.
SETTLE = (
    _COMMON
    + """
local granted, granted_at, total_then = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local said_tokens, said_requests = tonumber(ARGV[6]), tonumber(ARGV[7])
local left_tokens, left_requests, used = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
limit_tokens, limit_requests = said_tokens or limit_tokens, said_requests or limit_requests
limited()
refill()
if tokens then
  if left_tokens then
    local arrived = 0
    if mark_at > granted_at then arrived = math.max(0, mark_total - total_then) end
    local high = left_tokens + (now - granted_at) * quota_tokens / MINUTE - arrived
    if said_tokens == quota_tokens then tokens = math.max(tokens, left_tokens - (total_tokens - total_then)) end
    tokens = math.min(tokens, high, tokens_burst)
  elseif used then
    tokens = math.min(tokens + granted - used, tokens_burst)
  end
end
if requests and left_requests then
  requests = math.min(requests, left_requests + (now - granted_at) * quota_requests / MINUTE)
end
if ARGV[11] == '1' and granted_at >= backoff_at then backoff = 0 end
write()
return exact(now)
"""
)

# ARGV: …, tokens granted, granted at, seconds until it may be tried again ('' if the provider did not say)
# Returns {now, these seconds}.
THROTTLED = (
    _COMMON
    + """
local granted, granted_at, after = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
refill()
if not after then
  if granted_at >= backoff_at then
    backoff = math.min(backoff > 0 and 2 * backoff or BACKOFF, LONGEST_BACKOFF)
    backoff_at = now
  end
  after = backoff > 0 and backoff or BACKOFF
end
if now + after > at then
  at = now + after
  tokens, requests = nil, nil
  if quota_tokens > 0 then tokens = math.min(granted + CUSHION * tokens_burst, tokens_burst) end
  if quota_requests > 0 then requests = 1 end
end
write()
return {exact(now), exact(after)}
"""
)

# Returns now, and the fields and values of the hash `pace`.
ROOM = """
local time = redis.call('TIME')
local read = redis.call('HGETALL', KEYS[1])
table.insert(read, 1, string.format('%.17g', tonumber(time[1]) + tonumber(time[2]) / 1e6))
return read
"""
