"""What is done together: once a turn of the loop, in order, and nothing twice."""

from __future__ import annotations

import asyncio

from proxy.together import Together


async def test_a_turn_is_done_at_once_and_in_order() -> None:
    """What is added in one turn comes together in the next, whoever adds it; later things come later."""
    done: list[list[str]] = []
    together: Together[str] = Together(done.append)

    async def add(*names: str) -> None:
        for name in names:
            together.add(name)

    await asyncio.gather(add("a", "b"), add("c"))
    assert done == [["a", "b", "c"]]
    together.add("d")
    assert len(done) == 1
    await asyncio.sleep(0)
    assert done[1:] == [["d"]]
    await asyncio.sleep(0.01)
    assert len(done) == 2


async def test_what_is_added_meanwhile_is_for_the_next_turn() -> None:
    """A thing that leads to another one does not keep the loop for itself."""
    done: list[list[int]] = []

    def do(numbers: list[int]) -> None:
        done.append(numbers)
        if numbers[0] < 3:
            together.add(numbers[0] + 1)

    together: Together[int] = Together(do)
    together.add(1)
    await asyncio.sleep(0)
    assert done == [[1]]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == [[1], [2], [3]]
