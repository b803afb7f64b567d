"""Networks trained in random subspaces, to see how many dimensions a task needs."""
