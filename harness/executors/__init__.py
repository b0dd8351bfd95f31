"""Where shards run. Every executor takes the same jobs and reports the same records."""
