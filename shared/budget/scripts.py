"""The rules of `rules.py` as Lua, so that Redis checks and changes every budget of a request in one step.

KEYS, all in the tenant's slot:
    1 accounts  hash: `{unit}|{scope}` -> nine whole numbers: held, day, spent and overrun in it, month, spent and
                overrun in it, debt, at; `passages|{scope}` -> the usual tokens of a prompt's passages; `overrides` ->
                JSON {`{unit}|{scope}|{window}`: [limit, until]}; `changes` -> JSON, who set or reset what
    2 holds     hash: reservation -> JSON {amount: {tokens, usd}, scopes, ends}
    3 leases    sorted set: reservation -> milliseconds since the epoch until which it holds
    4 calls     hash of one request: id of a call -> its number and its line (JSON)
ARGV: one JSON object. `now`: milliseconds since the epoch; without it, Redis's own clock, which all replicas share.

Sums are of whole numbers below 2^53, which Lua's doubles hold exactly.
"""

# Seconds. A month and its last reservations; a request's calls are kept as long as its outcome (`ledger.KEEP`).
KEEP_ACCOUNTS, KEEP_HOLDS, KEEP_CALLS = 40 * 86_400, 8 * 86_400, 86_400

_COMMON = f"""
local DAY, SCALE, SOON, AT_ONCE = 86400000, 60000, 2000, 100
local ask = cjson.decode(ARGV[1])
local now = ask.now
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
local div = function(a, b) return math.floor(a / b) end

-- The month of a day (days since 1970-01-01), as a number that grows by one each month: H. Hinnant, "chrono-Compatible
-- Low-Level Date Algorithms", civil_from_days.
local function month_of(days)
  local z = days + 719468
  local era = div(z, 146097)
  local doe = z - era * 146097
  local yoe = div(doe - div(doe, 1460) + div(doe, 36524) - div(doe, 146096), 365)
  local doy = doe - (365 * yoe + div(yoe, 4) - div(yoe, 100))
  local mp = div(5 * doy + 2, 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1
end
local today = div(now, DAY)
local this_month = month_of(today)
local function until_next(window)
  local day = today + 1
  while window == 'month' and month_of(day) == this_month do day = day + 1 end
  return day * DAY - now
end

local accounts, NAMES = {{}}, {{'held', 'day', 'day_spent', 'day_overrun', 'month', 'month_spent', 'month_overrun',
  'debt', 'at'}}
local function account(name)
  local found = accounts[name]
  if not found then
    found = {{}}
    local kept, position = redis.call('HGET', KEYS[1], name) or '', 0
    for number in string.gmatch(kept, '%S+') do
      position = position + 1
      found[NAMES[position]] = tonumber(number)
    end
    for _, field in ipairs(NAMES) do found[field] = found[field] or 0 end
    if today > found.day then found.day, found.day_spent, found.day_overrun = today, 0, 0 end
    if this_month > found.month then found.month, found.month_spent, found.month_overrun = this_month, 0, 0 end
    accounts[name] = found
  end
  return found
end
local function save()
  for name, each in pairs(accounts) do
    local numbers = {{}}
    for position, field in ipairs(NAMES) do numbers[position] = string.format('%.0f', each[field]) end
    redis.call('HSET', KEYS[1], name, table.concat(numbers, ' '))
  end
  redis.call('EXPIRE', KEYS[1], {KEEP_ACCOUNTS})
end

-- The limits that the caller has configured, with those that an operator has set for a while in their place.
local limits, minutes, overridden = ask.limits or {{}}, {{}}, 0
local overrides = redis.call('HGET', KEYS[1], 'overrides')
if overrides then
  local set, kept = cjson.decode(overrides), {{}}
  for _, scope in ipairs(ask.scopes or {{}}) do
    for _, unit in ipairs({{'tokens', 'usd'}}) do
      for _, window in ipairs({{'minute', 'day', 'month'}}) do
        local found = set[unit .. '|' .. scope .. '|' .. window]
        if found and found[2] > now then
          overridden = overridden + 1
          kept[#kept + 1] = {{unit, scope, window, found[1]}}
        else
          for _, limit in ipairs(limits) do
            if limit[1] == unit and limit[2] == scope and limit[3] == window then kept[#kept + 1] = limit end
          end
        end
      end
    end
  end
  limits = kept
end
for _, limit in ipairs(limits) do
  if limit[3] == 'minute' then minutes[limit[1] .. '|' .. limit[2]] = limit[4] end
end

local function used(found, window) return found[window .. '_spent'] + found[window .. '_overrun'] end
local function each_account(amount, scopes, change)
  for _, unit in ipairs({{'tokens', 'usd'}}) do
    for _, scope in ipairs(scopes) do
      local name = unit .. '|' .. scope
      change(account(name), amount[unit], name, unit, scope)
    end
  end
end
local function bring_up_to_now()
  each_account({{}}, ask.scopes, function(each, _, name)
    local gone = minutes[name] and math.max(0, now - each.at) * minutes[name] or each.debt
    each.debt, each.at = math.max(0, each.debt - gone), math.max(each.at, now)
  end)
end
local function release(name)
  local kept = redis.call('HGET', KEYS[2], name)
  if not kept then return nil end
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[3], name)
  local hold = cjson.decode(kept)
  each_account(hold.amount, hold.scopes, function(each, amount)
    each.held = math.max(0, each.held - amount)
    each.debt = math.max(0, each.debt - amount * SCALE)
  end)
  return hold
end
local function keep(name, amount, scopes, ends)
  each_account(amount, scopes, function(each, part, of)
    each.held = each.held + part
    if minutes[of] then each.debt = each.debt + part * SCALE end
  end)
  redis.call('HSET', KEYS[2], name, cjson.encode({{amount = amount, scopes = scopes, ends = ends}}))
  redis.call('ZADD', KEYS[3], string.format('%.0f', ends), name)
  redis.call('EXPIRE', KEYS[2], {KEEP_HOLDS})
  redis.call('EXPIRE', KEYS[3], {KEEP_HOLDS})
end
local function give_back_ended()
  local ended = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now), 'LIMIT', 0, AT_ONCE)
  for _, name in ipairs(ended) do release(name) end
end
local function quotas()
  local found = {{}}
  for _, limit in ipairs(limits) do
    local each, window, most = account(limit[1] .. '|' .. limit[2]), limit[3], limit[4]
    local taken, resets
    if window == 'minute' then
      taken, resets = math.ceil(each.debt / SCALE), most > 0 and math.ceil(each.debt / most) or 0
    else
      taken, resets = used(each, window) + each.held, until_next(window)
    end
    found[#found + 1] = {{limit[1], limit[2], window, most, math.max(0, most - taken), math.ceil(resets / 1000)}}
  end
  return found
end
"""

# ARGV: name, amount, scopes, limits, lasts (milliseconds), instead or '', keep.
# Returns JSON {wait, quotas, passages, overridden}; wait: -1 it is held, -2 never, else milliseconds until it fits.
RESERVE = f"""{_COMMON}
local function reserve()
  give_back_ended()
  if redis.call('HEXISTS', KEYS[2], ask.name) == 1 then return -1 end
  local before = ask.instead ~= '' and release(ask.instead) or nil
  local rest = {{tokens = 0, usd = 0}}
  if before and ask.keep then
    for unit, amount in pairs(before.amount) do rest[unit] = math.max(0, amount - ask.amount[unit]) end
  end
  bring_up_to_now()
  local wait = 0
  for _, limit in ipairs(limits) do
    local each, window, most = account(limit[1] .. '|' .. limit[2]), limit[3], limit[4]
    local wanted = ask.amount[limit[1]] + rest[limit[1]]
    if wanted > most then return -2 end
    if window == 'minute' then
      local too_much = each.debt + (wanted - most) * SCALE
      if too_much > 0 then wait = math.max(wait, math.ceil(too_much / most)) end
    elseif used(each, window) + each.held + wanted > most then
      local ends = until_next(window)
      wait = math.max(wait, used(each, window) + wanted <= most and math.min(SOON, ends) or ends)
    end
  end
  if wait > 0 then return wait end
  keep(ask.name, ask.amount, ask.scopes, now + ask.lasts)
  if before and rest.tokens + rest.usd > 0 then keep(ask.instead, rest, before.scopes, before.ends) end
  return -1
end
local wait = reserve()
-- An empty Lua table would be an empty JSON object.
local left = quotas()
save()
local passages = tonumber(redis.call('HGET', KEYS[1], 'passages|' .. ask.scopes[2]) or -1)
return cjson.encode({{wait = wait, quotas = #left > 0 and left or nil, passages = passages, overridden = overridden}})
"""

# ARGV: name, used (amount), scopes, limits, line, passages (tokens) or -1. Settles a name once; returns all lines.
SETTLE = f"""{_COMMON}
local number = redis.call('HLEN', KEYS[4])
if redis.call('HSETNX', KEYS[4], ask.name, string.format('%06d', number) .. ask.line) == 1 then
  local hold = release(ask.name)
  bring_up_to_now()
  each_account(ask.used, ask.scopes, function(each, amount, name, unit, scope)
    local most = hold and hold.amount[unit] or amount
    if not hold then
      for _, limit in ipairs(limits) do
        if limit[1] == unit and limit[2] == scope and limit[3] ~= 'minute' then
          most = math.min(most, math.max(0, limit[4] - used(each, limit[3]) - each.held))
        end
      end
    end
    local spent = math.min(amount, most)
    each.day_spent, each.day_overrun = each.day_spent + spent, each.day_overrun + amount - spent
    each.month_spent, each.month_overrun = each.month_spent + spent, each.month_overrun + amount - spent
    if minutes[name] then each.debt = each.debt + amount * SCALE end
  end)
  save()
  if ask.passages >= 0 then
    local field = 'passages|' .. ask.scopes[2]
    local before = tonumber(redis.call('HGET', KEYS[1], field) or ask.passages)
    redis.call('HSET', KEYS[1], field, string.format('%.0f', before + div(ask.passages - before, 8)))
  end
end
redis.call('EXPIRE', KEYS[4], {KEEP_CALLS})
return redis.call('HVALS', KEYS[4])
"""

# ARGV: name. Returns the lines of the request's calls.
GIVE_BACK = f"""{_COMMON}
if release(ask.name) then save() end
return redis.call('HVALS', KEYS[4])
"""

# ARGV: nothing. Gives back what has ended; returns all of the accounts (HGETALL) and how many reservations there are.
SHOW = f"""{_COMMON}
give_back_ended()
save()
return {{tostring(now), redis.call('HGETALL', KEYS[1]), redis.call('HLEN', KEYS[2])}}
"""

# ARGV: scopes (those to change), set: {{`{{unit}}|{{scope}}|{{window}}`: limit}} or reset: true or forget: true,
# lasts (milliseconds), change (JSON for `changes`). Returns 1.
CHANGE = f"""{_COMMON}
local set = cjson.decode(redis.call('HGET', KEYS[1], 'overrides') or '{{}}')
for name, found in pairs(set) do if found[2] <= now then set[name] = nil end end
for name, most in pairs(ask.set or {{}}) do set[name] = {{most, now + ask.lasts}} end
for _, name in ipairs(ask.forget or {{}}) do set[name] = nil end
if next(set) then
  redis.call('HSET', KEYS[1], 'overrides', cjson.encode(set))
else
  redis.call('HDEL', KEYS[1], 'overrides')
end
if ask.reset then
  each_account({{}}, ask.scopes, function(each)
    each.day_spent, each.day_overrun, each.month_spent, each.month_overrun = 0, 0, 0, 0
    each.debt = each.held * SCALE
    -- Also when Redis's clock was ahead for a while: else the day would not end before that time comes.
    each.day, each.month, each.at = today, this_month, now
  end)
end
local changes = cjson.decode(redis.call('HGET', KEYS[1], 'changes') or '[]')
table.insert(changes, 1, ask.change)
while #changes > 20 do table.remove(changes) end
redis.call('HSET', KEYS[1], 'changes', cjson.encode(changes))
save()
return 1
"""
