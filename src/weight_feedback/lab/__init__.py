"""Experiments with weight feedback: data, networks, training, studies, plots and the command line."""
