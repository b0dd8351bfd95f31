"""The commands of ``harness`` one by one, their shared arguments, and what they tell on the terminal."""
