"""The metrics server: reads the scoreboard and /proc, serves what it found."""
