"""The rule that orders the four masks of a click: its formula, how it is fitted and how it is chosen."""
