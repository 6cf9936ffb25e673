-- Takes a token from each bucket of a limit, or from none if one of them is empty: Limit.take of bucket.py.
-- KEYS[1]: holds "at level ...", in ticks and units; no key means that all buckets are full.
-- ARGV: microseconds in a tick; then for each bucket the units of a token, of a tick, and of a full bucket.
-- Returns 1 or 0 for allowed, then the level of each bucket.
local time = redis.call('TIME')
local now = math.floor((time[1] * 1000000 + time[2]) / ARGV[1])
local state = redis.call('GET', KEYS[1])
local field = string.gmatch(state or '', '%d+')
local at = tonumber(field() or now)
local elapsed = math.max(0, now - at)
local reply, allowed = {1}, true
for i = 2, #ARGV, 3 do
  local level = tonumber(field() or ARGV[i + 2])
  level = math.min(level + elapsed * ARGV[i + 1], tonumber(ARGV[i + 2]))
  allowed = allowed and level >= tonumber(ARGV[i])
  reply[#reply + 1] = level
end
if not allowed then
  reply[1] = 0
  if now < at then -- the clock was set back: time counts from here, nothing else changes
    redis.call('SET', KEYS[1], (string.gsub(state, '^%d+', string.format('%.0f', now))), 'KEEPTTL')
  end
  return reply
end
local kept, full_ticks = string.format('%.0f', now), 0
for i = 2, #ARGV, 3 do
  local n = (i + 4) / 3
  reply[n] = reply[n] - ARGV[i]
  kept = kept .. string.format(' %.0f', reply[n])
  full_ticks = math.max(full_ticks, math.ceil((ARGV[i + 2] - reply[n]) / ARGV[i + 1]))
end
-- Once full, a bucket need not be remembered.
redis.call('SET', KEYS[1], kept, 'PX', string.format('%.0f', math.ceil(full_ticks * ARGV[1] / 1000) + 1))
return reply
