"""Pages against a naive book: no page has two owners but by lending, and none is lost.

What is in them is looked at in `laws/test_prefix.py`.
"""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from phasewise.core.errors import PlanError
from phasewise.core.kv import PageBook


class Pages(RuleBasedStateMachine):
    @initialize(total=st.integers(1, 12))
    def open(self, total: int) -> None:
        self.total = total
        self.book = PageBook(total)
        self.owned: dict[int, list[int]] = {}
        self.kept: list[list[int]] = []

    def refs(self, page: int) -> int:
        return sum(pages.count(page) for pages in (*self.owned.values(), *self.kept))

    @property
    def free(self) -> set[int]:
        return {page for page in range(self.total) if not self.refs(page)}

    @rule(request=st.integers(0, 4), more=st.integers(0, 4))
    def reach(self, request: int, more: int) -> None:
        before = self.owned.get(request, [])
        if more > len(self.free):
            return
        free = self.free
        got = list(self.book.reach(request, len(before) + more))
        assert got[: len(before)] == before
        assert len(got) == len(before) + more
        new = got[len(before) :]
        assert len(set(new)) == len(new)
        assert set(new) <= free
        self.owned.setdefault(request, []).extend(new)

    @precondition(lambda self: any(self.owned.values()))
    @rule(data=st.data())
    def keep(self, data: st.DataObject) -> None:
        pages = data.draw(st.sampled_from([pages for pages in self.owned.values() if pages]))
        some = pages[: data.draw(st.integers(1, len(pages)))]
        self.book.keep(some)
        self.kept.append(list(some))

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), request=st.integers(0, 4))
    def lend(self, data: st.DataObject, request: int) -> None:
        pages = data.draw(st.sampled_from(self.kept))
        self.book.lend(request, pages)
        self.owned.setdefault(request, []).extend(pages)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.book.drop(self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1))))

    @rule(request=st.integers(0, 5))
    def release(self, request: int) -> None:
        self.book.release(request)
        self.owned.pop(request, None)

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "book"):
            return
        assert self.book.available == len(self.free)
        assert [self.book.refs(page) for page in range(self.total)] == [self.refs(page) for page in range(self.total)]


Pages.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPages = Pages.TestCase


def test_more_than_there_are_is_an_error() -> None:
    book = PageBook(2)
    book.reach(0, 2)
    with pytest.raises(PlanError, match="no page is free"):
        book.reach(1, 1)


def test_a_lent_page_stays_while_anybody_holds_it() -> None:
    book = PageBook(2)
    pages = book.reach(0, 1)
    book.lend(1, pages)
    book.release(0)
    assert (book.refs(pages[0]), book.available) == (1, 1)
    assert not set(book.reach(2, 1)) & set(pages)
    book.release(1)
    assert book.available == 1
