"""Pages of keys and values: what is written is found by page, and what is not written takes up no memory."""

from __future__ import annotations

import resource

import pytest
import torch

from phasewise.core.errors import PlanError
from phasewise.engine.batch import Batch, Rows
from phasewise.engine.cache import PagedCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_gathered(dtype: torch.dtype) -> None:
    cache = PagedCache(3, 2, 8, 10, 4, dtype)
    kv = torch.randn(6, 4, 8).to(dtype)
    # Offsets 2 and 3 of page 7, then the whole of page 1.
    cache.write(1, kv, torch.tensor([30, 31, 4, 5, 6, 7]))
    keys, values = cache.gather(1, torch.tensor([7, 1]))
    assert keys.shape == values.shape == (2, 8, 8)
    assert torch.equal(torch.cat((keys, values))[:, 2:], kv.transpose(0, 1))
    assert not keys[:, :2].any()
    assert not cache.data[0].any()
    assert not cache.data[2].any()
    assert cache.page_bytes == 3 * 4 * 4 * 8 * dtype.itemsize


def test_pages_that_nobody_wrote_are_not_resident() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cache = PagedCache(30, 3, 64, 8192, 16)
    cache.write(0, torch.ones(1, 6, 64, dtype=torch.bfloat16), torch.tensor([5]))
    assert cache.page_bytes * 8192 > 2**31
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**28


def test_rows_are_laid_chunks_first() -> None:
    rows = [
        Rows([5], 6, [3, 0], True),
        Rows([1, 2, 3], 2, [4, 9], False),
        Rows([7, 8], 0, [2], True),
        Rows([6], 0, [8], True),
    ]
    batch = Batch(rows, 4, 10, 40, 20)
    assert batch.tokens.tolist() == [1, 2, 3, 7, 8, 5, 6]
    assert batch.positions.tolist() == [2, 3, 4, 0, 1, 6, 0]
    assert batch.slots.tolist() == [18, 19, 36, 8, 9, 2, 32]
    assert batch.emitting.tolist() == [5, 4, 6]
    assert batch.prompt_tokens == 5
    assert [(c.first, c.length, c.start, c.pages.tolist()) for c in batch.chunks] == [(0, 3, 2, [4, 9]), (3, 2, 0, [2])]
    assert [part.tolist() for part in batch.flat_tables] == [[3, 0, 8], [0, 2, 3], [7, 1]]


@pytest.mark.parametrize(("window", "widths"), [(None, [20, 2]), (9, [3]), (1, [1])])
def test_decodes_of_like_context_are_read_together(window: int | None, widths: list[int]) -> None:
    """No group is as wide as its longest unless its shortest has two thirds of that; a window makes all alike."""
    lengths = [80, 7, 60, 8, 54, 5]
    rows = [Rows([1], n - 1, [20 * i + j for j in range(20)], True) for i, n in enumerate(lengths)]
    groups = Batch(rows, 4, 120, 100, 2).groups(window)
    assert [group.pages.shape[1] for group in groups] == widths
    assert sorted(row for group in groups for row in group.rows.tolist()) == list(range(6))
    for group in groups:
        for at, row in enumerate(group.rows.tolist()):
            seen = group.bias[0, at, 0] == 0
            assert int(seen.sum()) == min(lengths[row], window or 100)
            slots = (group.pages[at][:, None] * 4 + torch.arange(4)).flatten()[seen] - 80 * row
            assert slots.tolist() == list(range(max(0, lengths[row] - (window or 100)), lengths[row]))


def test_pages_must_cover() -> None:
    with pytest.raises(PlanError, match="2 pages of 4 tokens do not cover a context of 9"):
        Batch([Rows([1], 8, [0, 1], True)], 4, 10, 40, 20)
