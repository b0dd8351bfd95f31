"""What is evaluated: architectures, training recipes and one folder per submission."""
