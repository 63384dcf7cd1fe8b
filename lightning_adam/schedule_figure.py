"""A matplotlib figure that a notebook draws; imported where matplotlib is there."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure


class ScheduleFigure(Figure):
    """A Figure that pyplot has not made shows in a notebook as its name only; this one as a picture, once."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()
