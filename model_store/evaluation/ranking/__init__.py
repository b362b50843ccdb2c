"""The ranking rule, which orders the four masks of a point prompt: its scores, its fits and its choice."""
