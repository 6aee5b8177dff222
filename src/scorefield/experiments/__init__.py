"""Each figure of the theory, one file each; and the demo."""
