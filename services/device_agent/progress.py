"""What ffmpeg says with ``-progress``: blocks of ``key=value`` lines, each ended by ``progress=``.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """One report: pictures encoded, media time over wall time, media time written in µs."""

    frames: int
    speed: float
    out_time_us: int
    ended: bool


@dataclass
class ProgressParser:
    """Collects lines until a block is whole."""

    _values: dict[str, str] = field(default_factory=dict)

    def feed(self, line: str) -> Progress | None:
        """Takes one line; returns the report that it ends, if it ends one.

        Values that are not known yet ("N/A") count as zero: ffmpeg prints them while it starts.
        """
        key, equals, value = line.strip().partition("=")
        if not equals:
            return None
        if key != "progress":
            self._values[key] = value.strip()
            return None
        values, self._values = self._values, {}
        return Progress(
            frames=int(_number(values.get("frame"))),
            speed=_number((values.get("speed") or "").removesuffix("x")),
            out_time_us=int(_number(values.get("out_time_us"))),
            ended=value == "end",
        )


def _number(text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        return 0.0
    # Not a number and infinities appear while nothing was written.
    return number if 0 <= number < float("inf") else 0.0
