"""E-mail addresses: compared in lower case and otherwise as they were typed; dots and tags belong to them.

The original service stored addresses of the large mail providers in a normal form (for Gmail without dots and
without `+tag`). Users of a database that was taken over still type what they have always typed, so an address
is looked for in that form as well, and nobody gets one whose other form somebody has.
"""

from __future__ import annotations

import re
import unicodedata

from proxy.documents import User

_LONGEST = 254
_LONGEST_LOCAL = 64
# The dot-atom of RFC 5322, and what RFC 6531 adds: everything beyond ASCII that is not a blank. Without the
# encoded words of RFC 2047, in whose place whoever reads a mail's header sees another address.
_LOCAL = re.compile(r"(?!.*=\?)[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*")
_DOMAIN = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+(?=[a-z])[a-z0-9-]{0,61}[a-z0-9]")
_GMAIL = frozenset({"gmail.com", "googlemail.com"})
_ICLOUD = frozenset({"icloud.com", "me.com"})
_OUTLOOK = frozenset({"hotmail", "live", "outlook"})
_OUTLOOK_ALSO = frozenset({"msn.com", "passport.com"})
_YAHOO_ALSO = frozenset({"ymail.com", "rocketmail.com"})


def parse_email(typed: str) -> str:
    """Return an address as it is stored; raise `ValueError` when it is none.

    An international domain is stored in its ASCII form, in which mail servers know it.
    """
    local, at, domain = _folded(typed).rpartition("@")
    try:
        domain = domain.encode("idna").decode("ascii").lower()
    except UnicodeError as exc:
        raise ValueError("is not a valid e-mail address") from exc
    address = f"{local}{at}{domain}"
    if (
        len(address) > _LONGEST
        or len(local.encode()) > _LONGEST_LOCAL
        or _LOCAL.fullmatch(local) is None
        or _DOMAIN.fullmatch(domain) is None
    ):
        raise ValueError("is not a valid e-mail address")
    return address


def candidates(typed: str) -> tuple[str, ...]:
    """Return the stored addresses that somebody may mean, the likeliest first."""
    try:
        address = parse_email(typed.strip())
    except ValueError:
        address = _folded(typed.strip())
    return tuple(dict.fromkeys((address, _original_form(address))))


def account_of(typed: str) -> str:
    """Return the one name under which tries on an account are counted, however its address is typed."""
    return candidates(typed)[-1]


async def find_users(typed: str) -> list[User | None]:
    """Return whose address this may be, the likeliest first, and then `None` for each form that nobody has.

    So whoever does the same for each does the same work for every address. There are two where somebody has got the
    form that is typed while another one had that of the original service.
    """
    addresses = candidates(typed)
    found = {user.email: user async for user in User.find({"email": {"$in": list(addresses)}})}
    return sorted(map(found.get, addresses), key=lambda user: user is None)


async def find_user(typed: str) -> User | None:
    """Return the one whose address this is likeliest to be, if anybody has it in any of its forms."""
    return (await find_users(typed))[0]


async def is_taken(typed: str) -> bool:
    """Say whether somebody has this address in any of its forms."""
    return await User.find({"email": {"$in": list(candidates(typed))}}).exists()


def _folded(typed: str) -> str:
    # In this order: a letter may have a composed form in lower case alone, as U+01F0 has.
    return unicodedata.normalize("NFC", typed.lower())


def _original_form(address: str) -> str:
    local, _, domain = address.rpartition("@")
    if domain in _GMAIL:
        untagged = local.partition("+")[0]
        # A run of dots stayed as it was; a valid address has none.
        return f"{untagged.replace('.', '')}@gmail.com"
    family = domain.partition(".")[0]
    if domain in _ICLOUD | _OUTLOOK_ALSO or family in _OUTLOOK:
        return f"{local.partition('+')[0]}@{domain}"
    if domain in _YAHOO_ALSO or family == "yahoo":
        return f"{local.rpartition('-')[0] or local}@{domain}"
    if domain == "ya.ru" or family == "yandex":
        return f"{local}@yandex.ru"
    return address
