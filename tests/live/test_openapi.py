"""The description is true: requests made from it are understood, and what is answered is what it says."""

from __future__ import annotations

import schemathesis

from serving import Board, Reads, says

BOARD = Board(says("Hello!"), tools=Reads())
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", BOARD.gateway)
