"""Writing rows to Redis unless newer ones are there, each in one atomic step.

Feast's layout: a hash per entity key; per view a field with the event time, a serialized protobuf
Timestamp (field 1 seconds, field 2 nanos, both varints), and a field per feature. Beside it we
keep `_created:<view>`: the event time again, then the created timestamp as 20 digits of
microseconds. Readers of Feast's layout do not see that field; if another writer has replaced the
row since, its event time differs from Feast's field and it is ignored.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from pipelines.lake.clock import EPOCH

# Whether the hash `key` holds a newer row, and whether that is damaged; arguments: the fields of
# the event time and the created timestamp, the new values. Stored bytes never raise an error: any
# row replaces an invalid event time, any row of the same event time an invalid created timestamp,
# and a key that is not a hash is removed.
_HOLDS_NEWER: Final = """
local call, pcall, unpack = redis.call, redis.pcall, unpack
local function varint(text, at)
  local value, weight = 0, 1
  for place = at, at + 6 do
    local byte = text:byte(place)
    if not byte then return end
    if byte < 128 then
      if byte == 0 then return end  -- zero is left out, and no number ends in one
      return value + byte * weight, place + 1
    end
    value = value + (byte - 128) * weight
    weight = weight * 128
  end
  local a, b, c = text:byte(at + 7, at + 9)  -- of a negative number all bits from here on are set
  if a == 255 and b == 255 and c == 1 then return value - weight, at + 10 end
end
local function read(text)
  local seconds, nanos, at = 0, 0, 1
  if text:byte(1) == 8 then
    seconds, at = varint(text, 2)
    if not seconds or seconds < -62135596800 or seconds > 253402300799 then return end
  end
  if text:byte(at) == 16 then
    nanos, at = varint(text, at + 1)
    if not nanos or nanos < 0 or nanos > 999999999 then return end
  end
  if at > #text then return seconds, nanos end
end
local function later(made, than)
  made, than = made:sub(-20), than:sub(-20)
  local minus = made:byte() == 45
  if minus ~= (than:byte() == 45) then return not minus end
  if minus then return made < than end
  return made > than
end
local function holds_newer(key, event_field, created_field, event, created)
  local stored = pcall('HMGET', key, event_field, created_field)
  if stored.err then
    if not stored.err:find('WRONGTYPE', 1, true) then call('HMGET', key, event_field) end
    call('DEL', key)
    return false, true
  end
  local old, made = stored[1], stored[2]
  if not old or (old == event and made == created) then return false end
  if old == event then
    if not made then return false end
    if not made:find('^[-%d]%d+$', -20) then return false, true end
    return made:sub(1, -21) == event and later(made, created)
  end
  local old_seconds, old_nanos = read(old)
  if not old_seconds then return false, true end
  local seconds, nanos = read(event)
  return old_seconds > seconds or (old_seconds == seconds and old_nanos > nanos)
end
"""

# KEYS[1] the entity's hash; ARGV: the field of the event time and its value, the field of the
# created timestamp and its value, then the features' fields and values. Returns how many rows were
# written, and how many of them over a damaged one.
PUT_UNLESS_OLDER: Final = (
    _HOLDS_NEWER
    + """
local newer, damaged = holds_newer(KEYS[1], ARGV[1], ARGV[3], ARGV[2], ARGV[4])
if newer then return {0, 0} end
call('HSET', KEYS[1], unpack(ARGV))
return {1, damaged and 1 or 0}
"""
)

# Of the server's time a row of 11 fields takes 7.1 microseconds this way (Redis 7.0, append-only
# file), a bare HSET 4.0. To look first, under WATCH, and write in a transaction takes 5.7 and may
# have to be repeated. A transaction of HSETs behind a script that moves newer rows aside takes 5.4,
# but should that script fail, the writes behind it are done all the same.
#
# Several rows of one view. KEYS the entities' hashes; ARGV: the number of fields, the fields in
# the order above, then each row's values in that order. Returns the same.
PUT_ROWS_UNLESS_OLDER: Final = (
    _HOLDS_NEWER
    + """
local width, at, written, repaired = tonumber(ARGV[1]), 1, 0, 0
local row = {}
for place = 1, width do row[2 * place - 1] = ARGV[at + place] end
at = at + width
for number = 1, #KEYS do
  local key = KEYS[number]
  local newer, damaged = holds_newer(key, row[1], row[3], ARGV[at + 1], ARGV[at + 2])
  if not newer then
    for place = 1, width do row[2 * place] = ARGV[at + place] end
    for first = 1, 2 * width, 4000 do  -- Lua cannot pass more than some 8,000 at once
      call('HSET', key, unpack(row, first, math.min(first + 3999, 2 * width)))
    end
    written = written + 1
    if damaged then repaired = repaired + 1 end
  end
  at = at + width
end
return {written, repaired}
"""
)

MISSING, DAMAGED, OLDER, DIFFERENT = 1, 2, 3, 4
"""Results of `CHECK_ROWS`: no row; a row that none of our writers leaves; an older row than
expected; a row with the same times and another value."""

# Check that the rows, or newer ones, are stored. KEYS and ARGV as above, but for a first argument:
# 1 to write each row that is not. Rows without features are compared by their times only. Returns
# the number, from 1, and the result of each row found wrong. A newer row than expected is left
# alone if its created timestamp belongs to it.
CHECK_ROWS: Final = (
    _HOLDS_NEWER
    + """
local repair, width, at, found = ARGV[1] == '1', tonumber(ARGV[2]), 2, {}
local names, row = {}, {}
for place = 1, width do
  names[place] = ARGV[at + place]
  row[2 * place - 1] = names[place]
end
at = at + width
local function verdict(key)
  local stored = pcall('HMGET', key, unpack(names))
  if stored.err then
    if not stored.err:find('WRONGTYPE', 1, true) then call('HMGET', key, unpack(names)) end
    if repair then call('DEL', key) end
    return 2
  end
  local old, made, event, created = stored[1], stored[2], ARGV[at + 1], ARGV[at + 2]
  if not old then return 1 end
  if old == event and made == created then
    for place = 3, width do
      if stored[place] ~= ARGV[at + place] then return 4 end
    end
    return 0
  end
  local old_seconds, old_nanos = read(old)
  if not old_seconds then return 2 end
  local seconds, nanos = read(event)
  if old_seconds < seconds or (old_seconds == seconds and old_nanos < nanos) then return 3 end
  if not made then return old == event and 3 or 0 end
  if made:sub(1, -21) ~= old or not made:find('^[-%d]%d+$', -20) then return 2 end
  if old == event and later(created, made) then return 3 end
  return 0
end
for number = 1, #KEYS do
  local key = KEYS[number]
  local wrong = verdict(key)
  if wrong > 0 then
    found[#found + 1] = number
    found[#found + 1] = wrong
    if repair then
      for place = 1, width do row[2 * place] = ARGV[at + place] end
      for first = 1, 2 * width, 4000 do
        call('HSET', key, unpack(row, first, math.min(first + 3999, 2 * width)))
      end
    end
  end
  at = at + width
end
return found
"""
)


def time_fields(view: str, event_time: datetime, created: datetime | None) -> list[Any]:
    """The first arguments of the script: both times with their fields.

    Args:
        view: the view's name, with its version where it has one.
        event_time: UTC where naive.
        created: the created timestamp, UTC where naive; None where there is none.

    Without a created timestamp, as from a push, the row counts as created at its event time.
    """
    event = serialized(event_time)
    since = _aware(created or event_time) - EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return [f"_ts:{view}", event, created_field(view), event + b"%020d" % microseconds]


def created_field(view: str) -> str:
    """The field that holds the created timestamp of a view's row."""
    return f"_created:{view}"


def serialized(time: datetime) -> bytes:
    """A time as Feast stores it."""
    stamp = Timestamp()
    stamp.FromDatetime(_aware(time))
    return bytes(stamp.SerializeToString())


def _aware(time: datetime) -> datetime:
    """Naive times are UTC, as in Feast (not imported here: that takes seconds)."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
