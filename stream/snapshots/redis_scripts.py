"""Lua scripts of the Redis store: each changes several keys in one step.

Each takes KEYS[1], the model's prefix; all keys share its hash tag, so they lie in one slot.
"""

from typing import Final

DIGITS: Final = 15  # of a version or a token: exact in Lua, too

# A garbled head or token counts as lost: the next publish replaces it.
COUNT: Final = f"""
local function count(text)
  return text and #text <= {DIGITS} and string.find(text, '^%d+$') and tonumber(text) or nil
end
"""
TAKE: Final = f"""{COUNT}
local head, taken = redis.call('HGET', KEYS[1] .. ':head', 'token'), redis.call('GET', KEYS[1] .. ':token')
local now = redis.call('TIME')
local now_ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local token = math.max(now_ms, (count(head) or 0) + 1, (count(taken) or 0) + 1, tonumber(ARGV[1]) + 1)
redis.call('SET', KEYS[1] .. ':token', string.format('%.0f', token))
return token
"""
# ARGV: digests. Returns those that are missing. All are indexed first, so that RETAIN drops them eventually.
PUT: Final = """
local newest = redis.call('ZREVRANGE', KEYS[1] .. ':versions', 0, 0)
local version = string.format('%.0f', tonumber(newest[1] or 0) + 1)
local missing = {}
for _, digest in ipairs(ARGV) do
  redis.call('ZADD', KEYS[1] .. ':blobs', version, digest)
  if redis.call('EXISTS', KEYS[1] .. ':blob:' .. digest) == 0 then missing[#missing + 1] = digest end
end
return missing
"""
# ARGV: version, parent, token, manifest, digests. Returns 1 when the head is at the manifest now, the first missing
# blob, then what head, token and latest version were, each '' for none. The head moves last.
PUBLISH: Final = (
    COUNT
    + """
local version, parent, token, manifest = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local head = redis.call('HMGET', KEYS[1] .. ':head', 'version', 'token')
local taken = redis.call('GET', KEYS[1] .. ':token')
local latest = redis.call('ZREVRANGE', KEYS[1] .. ':versions', 0, 0)[1]
if not (count(head[1]) and count(head[2])) then head = {} end
taken = count(taken) and taken
local was = {head[1] or '', head[2] or '', taken or '', latest or ''}
if head[1] == version and head[2] == token and redis.call('GET', KEYS[1] .. ':manifest:' .. version) == manifest then
  return {1, '', unpack(was)}
end
local newest = math.max(tonumber(taken or 0), tonumber(head[2] or 0))
if newest > tonumber(token) or (head[1] and head[1] ~= parent) or tonumber(latest or 0) >= tonumber(version) then
  return {0, '', unpack(was)}
end
for i = 5, #ARGV do
  if redis.call('EXISTS', KEYS[1] .. ':blob:' .. ARGV[i]) == 0 then return {0, ARGV[i], unpack(was)} end
end
for i = 5, #ARGV do redis.call('ZADD', KEYS[1] .. ':blobs', version, ARGV[i]) end
redis.call('SET', KEYS[1] .. ':manifest:' .. version, manifest)
redis.call('ZADD', KEYS[1] .. ':versions', version, version)
redis.call('SET', KEYS[1] .. ':token', token)
redis.call('HSET', KEYS[1] .. ':head', 'version', version, 'token', token)
redis.pcall('PUBLISH', KEYS[1] .. ':notices', version)
return {1, '', unpack(was)}
"""
)
# ARGV: versions to keep, keys to visit at most. Returns how many manifests and blobs were visited, and how many blobs
# were dropped. A pinned version's blobs leave the index; unpinning adds them again.
RETAIN: Final = """
local pin = redis.call('HGET', KEYS[1] .. ':decision', 'version')
local at = math.max(redis.call('ZCARD', KEYS[1] .. ':versions') - tonumber(ARGV[1]), 0)
local oldest = redis.call('ZRANGE', KEYS[1] .. ':versions', at, at)[1]
if not oldest then return {0, 0, 0} end
local head = redis.call('HGET', KEYS[1] .. ':head', 'version')
if head and (tonumber(head) or 0) < tonumber(oldest) then oldest = tonumber(head) or 0 end
local function old(index)
  return redis.call('ZRANGEBYSCORE', KEYS[1] .. index, '-inf', '(' .. oldest, 'LIMIT', 0, ARGV[2])
end
local versions, blobs, dropped = old(':versions'), old(':blobs'), 0
for _, version in ipairs(versions) do
  if version ~= pin then
    redis.call('UNLINK', KEYS[1] .. ':manifest:' .. version)
    redis.call('ZREM', KEYS[1] .. ':versions', version)
  end
end
for _, digest in ipairs(blobs) do
  if redis.call('SISMEMBER', KEYS[1] .. ':pinned', digest) == 0 then
    dropped = dropped + redis.call('UNLINK', KEYS[1] .. ':blob:' .. digest)
  end
  redis.call('ZREM', KEYS[1] .. ':blobs', digest)
end
return {#versions, #blobs, dropped}
"""
# ARGV: version, number and manifest (both to restore a lost decision; else 0 and ''), digests. Returns what is wrong or
# '': 'manifest' when it's missing, 'other' when it's another version's, or the first blob that is missing.
PIN: Final = """
local version, number, manifest = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local was = redis.call('HMGET', KEYS[1] .. ':decision', 'version', 'number')
local latest = tonumber(was[2] or 0) or 0
if number == 0 then
  local now = redis.call('TIME')
  number = math.max(latest + 1, tonumber(now[1]) * 1000000 + tonumber(now[2]))
elseif number <= latest then
  return ''
end
if version ~= '0' then
  local kept = redis.call('GET', KEYS[1] .. ':manifest:' .. version)
  if not kept and manifest == '' then return 'manifest' end
  if kept and manifest ~= '' and kept ~= manifest then return 'other' end
end
for i = 4, #ARGV do
  if redis.call('EXISTS', KEYS[1] .. ':blob:' .. ARGV[i]) == 0 then return ARGV[i] end
end
local before = tonumber(was[1] or 0) or 0
for _, digest in ipairs(redis.call('SMEMBERS', KEYS[1] .. ':pinned')) do
  local newest = redis.call('ZSCORE', KEYS[1] .. ':blobs', digest)
  if not newest or tonumber(newest) < before then redis.call('ZADD', KEYS[1] .. ':blobs', before, digest) end
end
redis.call('DEL', KEYS[1] .. ':pinned')
for i = 4, #ARGV do redis.call('SADD', KEYS[1] .. ':pinned', ARGV[i]) end
if manifest ~= '' then
  redis.call('SET', KEYS[1] .. ':manifest:' .. version, manifest)
  redis.call('ZADD', KEYS[1] .. ':versions', version, version)
end
redis.call('HSET', KEYS[1] .. ':decision', 'version', version, 'number', string.format('%.0f', number))
redis.pcall('PUBLISH', KEYS[1] .. ':notices', version)
return ''
"""
