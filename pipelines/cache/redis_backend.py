"""Cache values in Redis, beside Feast's keys, which are never touched.

One sorted set, `synchrochain:cache`, indexes every key by its expiry, so that keys can be counted
without scanning a database that Feast fills too. It is trimmed at each write and expires with the
last value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha1
from typing import Any, Final

from redis.exceptions import NoScriptError, RedisError

from pipelines.cache.entries import MARK, VERSION_BYTES, Item
from pipelines.errors import RedisRefusedError
from pipelines.redis_server import RedisEndpoint, connect, translate_redis_errors

INDEX: Final = "synchrochain:cache"
ITEMS_PER_ROUND_TRIP: Final = 1000  # Lua cannot unpack more than some 8,000 arguments

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS[1] is the index, ARGV[1] the times to live in ms; from 2 on, keys and their values. A foreign
# value under our key (another type, another text) counts as missing. The index is trimmed last:
# after a script's first write the server no longer enforces its memory limit.
_SET_UNLESS_OLDER: Final = f"""{_NOW}
local marks, longest, at = {{}}, 0, 1
for text in ARGV[1]:gmatch('%d+') do
  at = at + 1
  local key, value, life = KEYS[at], ARGV[at], tonumber(text)
  local stored = redis.pcall('GETRANGE', key, 0, {VERSION_BYTES - 1})
  local newer = type(stored) == 'string' and stored:sub(1, {len(MARK)}) == '{MARK.decode()}'
    and stored > value:sub(1, {VERSION_BYTES})
  if not newer then
    redis.call('SET', key, value, 'PX', text)
    marks[#marks + 1] = now + life
    marks[#marks + 1] = key
    longest = math.max(longest, life)
  end
end
if #marks > 0 then
  redis.call('ZADD', KEYS[1], unpack(marks))
  if redis.call('PTTL', KEYS[1]) < longest then redis.call('PEXPIRE', KEYS[1], longest) end
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return #marks / 2
"""

_COUNT: Final = f"{_NOW} return redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf')"


class RedisBackend:
    """A place that all processes of the data directory share; one server, no cluster.

    Each call is one round trip up to 1,000 items; newer wins in one atomic step per round trip.

    Args:
        endpoint: the server; nothing is sent before the first call.
        timeout: seconds to connect and to wait for a reply; the endpoint's own when left out.

    Every call raises:
        RedisUnavailableError: the server does not answer.
        RedisRefusedError: the server refuses, for instance because it is out of memory.
    """

    def __init__(self, endpoint: RedisEndpoint, *, timeout: float | None = None) -> None:
        self._endpoint = endpoint
        self._client: Any = connect(endpoint, timeout=timeout)

    def set_many(self, items: Sequence[Item]) -> int:
        """Store each item unless a newer one is stored; returns how many were stored."""
        kept = 0
        for start in range(0, len(items), ITEMS_PER_ROUND_TRIP):
            part = items[start : start + ITEMS_PER_ROUND_TRIP]
            # One argument instead of hundreds: packing arguments dominates the client's time.
            lives = " ".join(str(max(1, round(item.seconds * 1000))) for item in part)
            keys = (item.key for item in part)
            values = (item.value for item in part)
            kept += self._run(_SET_UNLESS_OLDER, [INDEX, *keys], [lives, *values])
        return kept

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value of each key, in order; None where there is none of ours."""
        if not keys:
            return []
        with self._reported():
            values: list[bytes | None] = self._client.mget(keys)
        return [value if value and value.startswith(MARK) else None for value in values]

    def size(self) -> int:
        """How many values are stored, by all processes; O(log n)."""
        return self._run(_COUNT, [INDEX], [])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _run(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes]) -> int:
        digest = sha1(script.encode(), usedforsecurity=False).hexdigest()
        with self._reported():
            try:
                answer: int = self._client.evalsha(digest, len(keys), *keys, *arguments)
            except NoScriptError:  # its first time on this server, or the server restarted
                answer = self._client.eval(script, len(keys), *keys, *arguments)
        return answer

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            with translate_redis_errors(self._endpoint):
                yield
        except RedisError as error:
            # An error that the cache handles, so its caller need not. The first line only: a
            # script's error continues with a stack trace.
            reason = str(error).partition("\n")[0]
            raise RedisRefusedError(f"{self._endpoint.description} refused: {reason}") from error
