"""Rampart's showing half: records in, a static site and plain tables out. Runs without torch; importing it does nothing."""
