"""Who may use the service over the network: pairing by a code, then sessions. No I/O.

Tokens are kept as their SHA-256, so that nothing that is printed, dumped or written down opens anything. Sessions
outlive the service (`session_file.py`): who watches a robot that drives can stop it also when the service began anew.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
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
_NOTED_S = 3600.0
"""How old the time in the file may be at which a session was last seen."""


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who was let in. name: tells sessions apart, opens nothing; csrf: what their page repeats."""

    name: str
    csrf: str


@dataclass(frozen=True, slots=True)
class KeptSession:
    """What is kept of a session. key: SHA-256 of its token; seen_s: when it was last used, by the wall clock."""

    key: str
    name: str
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
    """Who was let in; a week without a request ends one, and so do 64 newer ones where it is not in use.

    What is in use is known by the monotonic clock: a wall clock that is set (a Pi starts with the time of its last
    shutdown) takes the stop from nobody. Of sessions of before that were not used yet only the wall clock knows.

    kept: sessions of before. on_change: gets all that are to be kept, whenever they are others. wall, clock: seconds,
    of the world and monotonic.
    """

    def __init__(
        self,
        kept: Iterable[KeptSession] = (),
        *,
        on_change: Callable[[list[KeptSession]], None] = lambda _: None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._clock, self._on_change = wall, clock, on_change
        self._by_key = {session.key: session for session in kept}
        self._used_s: dict[str, float] = {}
        self._noted = dict(self._by_key)

    def begin(self) -> tuple[str, Session]:
        """(token for the cookie, session)."""
        token = secrets.token_urlsafe(32)
        mine = _hashed(token)
        session = Session(secrets.token_hex(4), _csrf(token))
        self._use(mine, session.name)
        unused = [key for key in self._by_key if not 0 <= self._idle_s(key) <= _IN_USE_S]
        too_many = max(0, len(self._by_key) - _MAX_SESSIONS)
        for oldest in sorted(unused, key=self._idle_s, reverse=True)[:too_many]:
            self._end(oldest)
        if len(self._by_key) > _MOST_SESSIONS:
            self._end(mine)  # this one, not one that somebody uses
        self._note()
        return token, session

    def of(self, token: str) -> Session | None:
        """The session of a cookie's token."""
        key = _hashed(token)
        kept = self._by_key.get(key)
        if kept is None:
            return None
        if self._idle_s(key) > _IDLE_S:
            self._end(key)
            self._note()
            return None
        self._use(key, kept.name)
        if not 0 <= self._wall() - self._noted[key].seen_s <= _NOTED_S:
            self._note()
        return Session(kept.name, _csrf(token))

    def forget(self) -> None:
        """Everybody has to pair anew."""
        self._by_key.clear()
        self._used_s.clear()
        self._note()

    def _use(self, key: str, name: str) -> None:
        self._by_key[key], self._used_s[key] = KeptSession(key, name, self._wall()), self._clock()

    def _end(self, key: str) -> None:
        del self._by_key[key]
        self._used_s.pop(key, None)

    def _idle_s(self, key: str) -> float:
        """How long it was not used; negative where the wall clock was put back."""
        used_s = self._used_s.get(key)
        return self._wall() - self._by_key[key].seen_s if used_s is None else self._clock() - used_s

    def _note(self) -> None:
        # As the wall clock says it now: it may have been set since they were used.
        for key in self._used_s:
            kept = self._by_key[key]
            self._by_key[key] = KeptSession(key, kept.name, self._wall() - self._idle_s(key))
        self._noted = dict(self._by_key)
        self._on_change(list(self._noted.values()))


def _csrf(token: str) -> str:
    """Follows from the token, so that it need not be kept; the token does not follow from it."""
    return hashlib.sha256(b"csrf " + token.encode("utf-8", "surrogatepass")).hexdigest()[:32]


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
