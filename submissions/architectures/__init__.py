"""The networks of the reference submissions; each module offers ``build(**kwargs) -> nn.Module``."""
