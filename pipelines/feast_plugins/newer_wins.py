"""Writing a row to Redis unless a newer one is there, in one atomic step.

Feast's layout: a hash per entity key; per view a field with the event time, a serialized protobuf
Timestamp (field 1 seconds, field 2 nanos, both varints), and a field per feature. Beside it we
keep `_created:<view>`: the event time again, then the created time as 20 digits of microseconds.
Whoever reads Feast's layout does not see that field; if another writer has replaced the row since,
its event time differs from Feast's field and it counts for nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

# KEYS[1] the entity's hash; ARGV: the field of the event time and its value, the field of the
# created time and its value, then the features' fields and values.
PUT_UNLESS_OLDER: Final = """
local function read(text)
  local seconds, nanos, at = 0, 0, 1
  while at <= #text do
    local field, value, weight, byte = text:byte(at), 0, 1, 0
    repeat
      at = at + 1
      byte = text:byte(at)
      value = value + (byte % 128) * weight
      weight = weight * 128
    until byte < 128
    at = at + 1
    if field == 8 then seconds = value else nanos = value end
  end
  return seconds, nanos
end
local stored = redis.call('HMGET', KEYS[1], ARGV[1], ARGV[3])
if stored[1] then
  if stored[1] == ARGV[2] then
    local created = stored[2]
    if created and created:sub(1, -21) == ARGV[2] and created:sub(-20) > ARGV[4]:sub(-20) then
      return 0
    end
  else
    local old_seconds, old_nanos = read(stored[1])
    local seconds, nanos = read(ARGV[2])
    if old_seconds > seconds or (old_seconds == seconds and old_nanos > nanos) then return 0 end
  end
end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
"""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def time_fields(view: str, event_time: datetime, created: datetime | None) -> list[Any]:
    """The first arguments of the script: both times with their fields.

    Without a created time, as from a push, the row counts as created at its event time.
    """
    event = serialized(event_time)
    since = _aware(created or event_time) - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return [f"_ts:{view}", event, created_field(view), event + b"%020d" % microseconds]


def created_field(view: str) -> str:
    """The field that holds the created time of a view's row."""
    return f"_created:{view}"


def serialized(moment: datetime) -> bytes:
    """A time as Feast stores it."""
    stamp = Timestamp()
    stamp.FromDatetime(_aware(moment))
    return bytes(stamp.SerializeToString())


def _aware(moment: datetime) -> datetime:
    """Without a time zone it is UTC, as everywhere in Feast, whose import takes seconds."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
