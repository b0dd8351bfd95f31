"""How the reference submissions were trained: one trainer, one file per defense, one TOML file per submission."""
