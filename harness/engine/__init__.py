"""How one shard becomes a record: ``shard`` runs and times it, its neighbours look at what came out."""
