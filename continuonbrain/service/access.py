"""Who may use the service over the network: pairing by a code, then sessions. No I/O.

Everything here lives in memory: a service that starts anew knows nobody. Tokens are kept as their SHA-256, so that
nothing that is printed or dumped opens anything.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

_WRONG_BEFORE_PAUSE = 10
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 3600.0
_WRONG_OF_ALL = 100
_DIGITS, _MORE_DIGITS = 6, 12
_MOST_GUESSERS = 1024
_SPENT_CODES = 16
_MAX_SESSIONS, _MOST_SESSIONS = 64, 1024
_IDLE_S = 7 * 24 * 3600.0
_IN_USE_S = 30.0


@dataclass(slots=True)
class Session:
    """Somebody who was let in. name: tells sessions apart, opens nothing; csrf: what their page repeats."""

    name: str
    csrf: str
    seen_s: float


@dataclass(slots=True)
class _Guesser:
    wrong: int = 0
    closed_until_s: float = 0.0
    pause_s: float = field(default=_FIRST_PAUSE_S)


class Pairing:
    """The code on the robot's console, and who guesses it.

    Ten wrong ones from an address, and it is not heard for a minute, then for twice as long each time, at most an hour.
    Others are heard meanwhile: nobody closes the door for the owner. A hundred wrong ones from wherever, and there is
    another code, of twelve digits instead of six, which no number of addresses guesses. A code that opens, or `renew`,
    begins anew with six.

    on_code: gets every code.
    """

    def __init__(
        self, on_code: Callable[[str], None] = lambda _: None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_code, self._clock = on_code, clock
        self._guessers: dict[str, _Guesser] = {}
        self._wrong = 0
        self._code = ""
        self._spent: deque[str] = deque(maxlen=_SPENT_CODES)
        self.renew()

    def renew(self) -> None:
        """Another code, and every address is heard again: for who stands at the robot. The old code opens no more."""
        self._guessers.clear()
        self._wrong = 0
        self._change(_DIGITS)

    def closed_s(self, address: str) -> float:
        """Seconds until a code from there is looked at again, 0 when it is now."""
        guesser = self._guessers.get(_place(address))
        return 0.0 if guesser is None else max(0.0, guesser.closed_until_s - self._clock())

    def try_code(self, said: str, address: str) -> Literal["opens", "wrong", "used", "closed"]:
        """Whether it is the code. A code opens once: then it is a used one."""
        if self.closed_s(address) > 0:
            return "closed"
        if hmac.compare_digest(said.encode(), self._code.encode()):
            self._spent.append(said)
            self._guessers.pop(_place(address), None)
            self._wrong = 0
            self._change(_DIGITS)
            return "opens"
        if said in self._spent:
            return "used"
        self._count(self._guesser(_place(address)))
        return "wrong"

    def _count(self, guesser: _Guesser) -> None:
        guesser.wrong += 1
        if guesser.wrong >= _WRONG_BEFORE_PAUSE:
            guesser.wrong = 0
            guesser.closed_until_s = self._clock() + guesser.pause_s
            guesser.pause_s = min(_LONGEST_PAUSE_S, 2 * guesser.pause_s)
        self._wrong += 1
        if self._wrong == _WRONG_OF_ALL:
            self._change(_MORE_DIGITS)

    def _guesser(self, place: str) -> _Guesser:
        found = self._guessers.pop(place, None) or _Guesser()
        self._guessers[place] = found  # the newest last
        while len(self._guessers) > _MOST_GUESSERS:  # by then the code is a long one
            del self._guessers[next(iter(self._guessers))]
        return found

    def _change(self, digits: int) -> None:
        self._code = f"{secrets.randbelow(10**digits):0{digits}}"
        self._on_code(self._code)


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


def _place(address: str) -> str:
    """What counts as one address: of IPv6 the network, in which a machine takes as many as it likes."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
