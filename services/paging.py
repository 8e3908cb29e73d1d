"""Pages of a list (AIP-158): tokens are opaque to callers, and stay good while the list changes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import TypeVar

from mesh.runtime import InvalidArgument

T = TypeVar("T")

DEFAULT_SIZE = 100


def page_by_key(
    items: Sequence[T], key: Callable[[T], str], size: int, token: str
) -> tuple[list[T], str]:
    """A page of items sorted by `key`, and the token of the next page, empty on the last one.

    Raises `InvalidArgument` for a token that no page gave.
    """
    after = _decode(token)
    rest = [item for item in items if not token or key(item) > after]
    found = rest[: size or DEFAULT_SIZE]
    more = len(found) < len(rest)
    return found, _encode(key(found[-1])) if more else ""


def page_of_log(items: Sequence[T], size: int, token: str) -> tuple[list[T], str]:
    """A page of items that only grow at their front (the newest first).

    Tokens count from the old end, which stays where it is. Raises `InvalidArgument`.
    """
    left = len(items)
    if token:
        text = _decode(token)
        if not text.isdigit() or int(text) > left:
            raise _bad_token()
        left = int(text)
    start = len(items) - left
    found = list(items[start : start + (size or DEFAULT_SIZE)])
    left -= len(found)
    return found, _encode(str(left)) if left else ""


def _encode(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad_token() from None


def _bad_token() -> InvalidArgument:
    return InvalidArgument.fields(
        {"page_token": "is not one that a page gave: start again without it"}
    )
