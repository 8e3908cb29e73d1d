"""Where two JSON values differ, in words."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.contracts.differences import ABSENT, Difference, differences

ROUTE = {"match": {"path": "/a.B/C"}, "route": {"cluster": "app"}}
HOME = {"match": {"path": "/a.B/C", "headers": [{"name": "home"}]}, "route": {"cluster": "us"}}


@pytest.mark.parametrize(
    "there, should, told",
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [Difference("a.b", "1", "2")]),
        ({"a": 1}, {}, [Difference("a", "1", ABSENT)]),
        ({}, {"a": 1}, [Difference("a", ABSENT, "1")]),
        ([1, 2], [1, 3], [Difference("[1]", "2", "3")]),
        ([1], [1, 3], [Difference("[1]", ABSENT, "3")]),
        (
            {"x": [{"name": "b", "v": 1}, {"name": "a", "v": 1}]},
            {"x": [{"name": "a", "v": 2}, {"name": "b", "v": 1}]},
            [
                Difference("x[a].v", "1", "2"),
                Difference("x", 'the order ["b", "a"]', '["a", "b"]'),
            ],
        ),
        (
            [HOME, ROUTE],
            [HOME, {**ROUTE, "route": {"cluster": "other"}}],
            [Difference("[/a.B/C].route.cluster", '"app"', '"other"')],
        ),
        ({"a": "5"}, {"a": 5}, [Difference("a", '"5"', "5")]),
    ],
)
def test_each_difference_is_told_at_its_path(
    there: Any, should: Any, told: list[Difference]
) -> None:
    assert list(differences(there, should)) == told


def test_what_is_long_is_cut() -> None:
    (found,) = differences("x" * 10_000, "")
    assert len(found.there) < 200
    assert found.there.endswith("...")
