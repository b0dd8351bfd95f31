"""Rampart's showing half: records in, a static site and plain tables out. Needs no torch; importing it does nothing."""
