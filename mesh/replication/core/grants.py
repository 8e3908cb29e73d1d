"""Who may do an operation that was perhaps done in another region already.

A repeat that comes to a region which does not know its operation id may have overtaken the first
attempt, or that attempt's change. So the region asks every other one, and does the operation once
all have granted it. Who grants an id is fenced: it has not done it, and does not begin it later
without asking in its turn. Of two regions that ask at once the first by name goes on, the other one
gives way. A grant that came before the own fence is void: whoever is fenced asks anew.

That leaves one way to two effects: first attempts under one id, in two regions, neither of which
says that it is a repeat. They are found when their changes meet.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.replication.core.receipts import KEPT_MS, ReceiptKey

Operation = ReceiptKey
"""An operation: actor, method, request id."""


class Claims:
    """What a region has granted, and what it asks for itself.

    `fenced` is what its store holds: when each was granted (milliseconds since 1970). Fences are
    kept as long as the results of operations.
    """

    def __init__(self, region: str, fenced: Mapping[Operation, int]) -> None:
        self._region = region
        self._fenced = dict(fenced)
        self._asking: dict[Operation, bool] = {}

    def is_fenced(self, operation: Operation) -> bool:
        """Whether another region may have done it, to which it was granted: so ask first."""
        return operation in self._fenced

    def begin(self, operation: Operation) -> None:
        """This region begins to ask all others."""
        self._asking[operation] = True

    def end(self, operation: Operation) -> bool:
        """This region has asked: whether it had not given way meanwhile.

        If all others granted it too it may do the operation, before anything else happens here.
        """
        return self._asking.pop(operation)

    def asked(self, operation: Operation, by: str, now_ms: int) -> bool:
        """Another region asks for what was not done here and is not in flight: whether it may.

        Its answer may go once the fence is stored.
        """
        if self._asking.get(operation) and self._region < by:
            return False
        if operation in self._asking:
            self._asking[operation] = False
        self._forget(now_ms - KEPT_MS)
        self._fenced.pop(operation, None)  # the newest stand last
        self._fenced[operation] = now_ms
        return True

    def _forget(self, before_ms: int) -> None:
        while self._fenced:
            oldest = next(iter(self._fenced))
            if self._fenced[oldest] >= before_ms:
                return
            del self._fenced[oldest]
