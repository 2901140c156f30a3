"""Floor 3: decisions only. One module per published system; the mechanism that keeps the books is `control`."""
