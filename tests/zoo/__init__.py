"""Broken and honest models around the bundled networks, to test the validity battery; a root of submissions.

``expected.toml`` says of each what it is and what the battery must make of it; ``python tests/zoo/cards.py`` writes the
cards.
Broken models stand here alone: nothing in ``harness`` or ``submissions`` imports this package.
"""
