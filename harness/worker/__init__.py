"""The process that holds a submission's network, and the handle on it; ``harness.models`` is what attacks call."""
