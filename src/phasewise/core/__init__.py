"""Floor 1: the nouns. Standard library and msgspec only; frozen, serialisable, torch-free."""
