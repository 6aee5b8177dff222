"""Exit codes of the command line."""

DONE, BAD_NEWS, BAD_INPUT, LOCKED, INTERRUPTED = 0, 1, 2, 3, 130
