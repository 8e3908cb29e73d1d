"""What is written: things of 200 bytes, under keys that are drawn uniformly or by Zipf's law."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from tests.bench.replication.contract import FIELDS, message_class

ENTITIES = 100_000
VALUE_BYTES = 18
"""Ten values with their tags and lengths are 200 bytes."""

ZIPF_EXPONENT = 0.99
"""As in YCSB's core workloads."""

DRAWN = 1 << 15
"""How many things are made beforehand; a run goes round."""

TWO_FIELDS = ("f3", "f7")


def key(number: int) -> str:
    """An entity's key."""
    return f"thing-{number:08d}"


def draw(distribution: str, entities: int, count: int, seed: int) -> list[int]:
    """Numbers of entities."""
    source = random.Random(seed)  # noqa: S311 # a seed makes all contenders draw the same
    if distribution == "uniform":
        return [source.randrange(entities) for _ in range(count)]
    if distribution != "zipf":
        raise ValueError(f"no such distribution: {distribution}")
    weights = accumulate(rank**-ZIPF_EXPONENT for rank in range(1, entities + 1))
    numbers = list(range(entities))
    source.shuffle(numbers)  # else the popular keys would be neighbours
    return source.choices(numbers, cum_weights=list(weights), k=count)


def values(seed: int, count: int) -> list[str]:
    """Distinct values for fields."""
    source = random.Random(seed)  # noqa: S311 # as above
    return [f"{source.getrandbits(72):0{VALUE_BYTES}x}" for _ in range(count)]


def things(numbers: Sequence[int], fields: Sequence[str], seed: int) -> list[Any]:
    """One thing for each number, with `fields` set."""
    thing = message_class("Thing")
    texts = iter(values(seed, len(numbers) * len(fields)))
    return [thing(id=key(number), **{field: next(texts) for field in fields}) for number in numbers]


def whole(distribution: str, seed: int, entities: int = ENTITIES) -> list[Any]:
    """Things with all of their fields."""
    return things(draw(distribution, entities, DRAWN, seed), FIELDS, seed)
