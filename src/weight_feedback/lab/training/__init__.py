"""One trial: train it, keep how far it is, and say where it was run."""
