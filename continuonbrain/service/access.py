"""Who may use the service over the network: pairing by a code, then sessions. No I/O.

Everything here lives in memory: a service that starts anew knows nobody. Tokens are kept as their SHA-256, so that
nothing that is printed or dumped opens anything.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

_WRONG_PER_CODE = 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 3600.0
_DIGITS = 6
_MAX_SESSIONS, _MOST_SESSIONS = 64, 1024
_IDLE_S = 7 * 24 * 3600.0
_IN_USE_S = 30.0


@dataclass(slots=True)
class Session:
    """Somebody who was let in. name: tells sessions apart, opens nothing; csrf: what their page repeats."""

    name: str
    csrf: str
    seen_s: float


class Pairing:
    """The code on the robot's console. Ten wrong ones, and nobody is asked for a while (a minute, then twice as long
    each time, at most an hour); then there is another code."""

    def __init__(
        self, on_code: Callable[[str], None] = lambda _: None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_code, self._clock = on_code, clock
        self._pause_s = _FIRST_PAUSE_S
        self._closed_until_s = 0.0
        self._wrong = 0
        self._code = ""
        self.renew()

    def renew(self) -> None:
        """Another code; the old one opens nothing any more."""
        self._code = f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
        self._wrong = 0
        self._on_code(self._code)

    @property
    def closed_s(self) -> float:
        """Seconds until a code is looked at again, 0 when it is now."""
        return max(0.0, self._closed_until_s - self._clock())

    def try_code(self, said: str) -> bool:
        """Whether it is the code. A code opens once. False while `closed_s` says so, whatever was said."""
        if self.closed_s > 0:
            return False
        if hmac.compare_digest(said.encode(), self._code.encode()):
            self._pause_s = _FIRST_PAUSE_S
            self.renew()
            return True
        self._wrong += 1
        if self._wrong >= _WRONG_PER_CODE:
            self._closed_until_s = self._clock() + self._pause_s
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
            self.renew()
        return False


class Sessions:
    """Who was let in; a week without a request ends one, and so do 64 newer ones where it is not in use."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._by_hash: dict[str, Session] = {}

    def begin(self) -> tuple[str, Session]:
        """(token for the cookie, session)."""
        token = secrets.token_urlsafe(32)
        now = self._clock()
        session = Session(secrets.token_hex(4), secrets.token_urlsafe(24), now)
        self._by_hash[_hashed(token)] = session
        unused = [h for h, s in self._by_hash.items() if now - s.seen_s > _IN_USE_S]
        for oldest in sorted(unused, key=lambda h: self._by_hash[h].seen_s)[
            : max(0, len(self._by_hash) - _MAX_SESSIONS)
        ]:
            del self._by_hash[oldest]
        if len(self._by_hash) > _MOST_SESSIONS:
            del self._by_hash[_hashed(token)]  # this one, not one that somebody uses
        return token, session

    def of(self, token: str) -> Session | None:
        """The session of a cookie's token."""
        key, now = _hashed(token), self._clock()
        session = self._by_hash.get(key)
        if session is None:
            return None
        if now - session.seen_s > _IDLE_S:
            del self._by_hash[key]
            return None
        session.seen_s = now
        return session


def _hashed(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
