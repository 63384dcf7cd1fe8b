"""Parts of the last of several like blocks that nobody needs, and that are there because the others need theirs."""

from __future__ import annotations

from collections.abc import Collection


def are_of_last_blocks(lacking: Collection[str], trainable: Collection[str]) -> bool:
    """Whether each parameter without a gradient is of the last of some blocks, and the others' are learnt, as is its rest.

    Such as the last backcast of N-BEATS, which no block follows (Oreshkin et al. 2020, section 3.2). A gradient that is cut
    off between two blocks is lacking in the earlier ones, and a head whose loss was forgotten lacks all of its own.

    Args:
        lacking: names of those without a gradient.
        trainable: names of all.
    """
    learning = set(trainable) - set(lacking)
    return bool(lacking) and all(_is_of_a_last_block(name, learning, trainable) for name in lacking)


def _is_of_a_last_block(name: str, learning: set[str], trainable: Collection[str]) -> bool:
    """By any of the numbers in its name."""
    parts = name.split(".")
    return any(_is_last(parts, place, learning, trainable) for place, part in enumerate(parts) if part.isdigit())


def _is_last(parts: list[str], place: int, learning: set[str], trainable: Collection[str]) -> bool:
    before, number, behind = parts[:place], int(parts[place]), parts[place + 1 :]
    block = ".".join(parts[: place + 1]) + "."
    names = [one.split(".") for one in trainable]
    others = [twin for twin in names if twin[:place] == before and twin[place + 1 :] == behind and len(twin) == len(parts)]
    numbers = {int(twin[place]): ".".join(twin) in learning for twin in others if twin[place].isdigit()}
    is_last = len(numbers) > 1 and number == max(numbers)
    return is_last and sum(numbers.values()) == len(numbers) - 1 and any(n.startswith(block) for n in learning)
