"""The page book: reference counts, content keys, and which cached page goes first, against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from phasewise.core.errors import PlanError
from phasewise.core.kv import PageBook

KEYS = st.integers(0, 5)


class Pages(RuleBasedStateMachine):
    """The model knows who owns which pages, what is in them, and in what order they were last let go."""

    @initialize(total=st.integers(1, 12))
    def open(self, total: int) -> None:
        self.total = total
        self.book = PageBook(total)
        self.owned: dict[int, list[int]] = {}
        self.key: dict[int, int] = {}
        self.cached: list[int] = []

    def refs(self, page: int) -> int:
        return sum(pages.count(page) for pages in self.owned.values())

    @property
    def free(self) -> int:
        used = {page for pages in self.owned.values() for page in pages}
        return self.total - len(used) - len(self.cached)

    @rule(request=st.integers(0, 4), more=st.integers(0, 4))
    def reach(self, request: int, more: int) -> None:
        before = self.owned.get(request, [])
        wanted = len(before) + more
        if more > self.free + len(self.cached):
            return
        got = self.book.reach(request, wanted)
        assert got[: len(before)] == tuple(before)
        assert len(got) == wanted
        new = list(got[len(before) :])
        assert len(set(new)) == len(new)
        from_cache = max(0, more - self.free)
        # Free pages first; then, of the cached, those that were let go longest ago.
        assert new[more - from_cache :] == self.cached[:from_cache]
        assert not set(new[: more - from_cache]) & set(self.cached)
        assert all(self.refs(page) == 0 for page in new)
        for page in self.cached[:from_cache]:
            del self.key[page]
        self.cached = self.cached[from_cache:]
        self.owned.setdefault(request, []).extend(new)

    @precondition(lambda self: any(self.owned.values()))
    @rule(data=st.data(), key=KEYS)
    def seal(self, data: st.DataObject, key: int) -> None:
        request = data.draw(st.sampled_from([r for r, pages in self.owned.items() if pages]))
        index = data.draw(st.integers(0, len(self.owned[request]) - 1))
        self.book.seal(request, index, key)
        page = self.owned[request][index]
        if page not in self.key and key not in self.key.values():
            self.key[page] = key

    @rule(request=st.integers(0, 4), key=KEYS)
    def share(self, request: int, key: int) -> None:
        page = self.book.share(request, key)
        wanted = next((p for p, k in self.key.items() if k == key), None)
        assert page == wanted, "a page whose content is known must be found until it is evicted, and not after"
        if page is not None:
            self.owned.setdefault(request, []).append(page)
            if page in self.cached:
                self.cached.remove(page)

    @rule(request=st.integers(0, 5))
    def release(self, request: int) -> None:
        self.book.release(request)
        pages = self.owned.pop(request, [])
        for i, page in reversed(list(enumerate(pages))):
            # One that the request has twice is let go where it stands first.
            if self.refs(page) == 0 and page in self.key and page not in pages[:i]:
                self.cached.append(page)

    @invariant()
    def conserved(self) -> None:
        if not hasattr(self, "book"):
            return
        assert self.book.available == self.free + len(self.cached)
        assert [self.book.refs(page) for page in range(self.total)] == [self.refs(p) for p in range(self.total)]
        referenced = sum(self.book.refs(page) > 0 for page in range(self.total))
        assert self.book.available + referenced == self.total


Pages.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPages = Pages.TestCase


def test_more_than_there_are_is_an_error() -> None:
    book = PageBook(2)
    book.reach(0, 2)
    with pytest.raises(PlanError, match="no page is free"):
        book.reach(1, 1)


def test_a_prefix_outlives_what_was_built_on_it() -> None:
    book = PageBook(3)
    pages = book.reach(0, 3)
    for i in range(3):
        book.seal(0, i, f"block {i}")
    book.release(0)
    assert book.reach(1, 1) == pages[2:]
    assert book.share(2, "block 2") is None
    assert book.share(2, "block 0") == pages[0]
    assert book.share(2, "block 1") == pages[1]


def test_a_shared_page_stays_while_anybody_uses_it() -> None:
    book = PageBook(2)
    page = book.reach(0, 1)[0]
    book.seal(0, 0, "hello")
    assert book.share(1, "hello") == page
    assert book.refs(page) == 2
    book.release(0)
    assert book.refs(page) == 1
    assert book.reach(2, 1) != (page,)
    with pytest.raises(PlanError, match="no page is free"):
        book.reach(3, 1)
