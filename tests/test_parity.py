"""The table of tests/parity.py, from records and by hand."""

import pytest
from test_architecture import ROOT  # noqa: F401
