"""What touches a network and returns numbers; judging them is the checks' work."""
