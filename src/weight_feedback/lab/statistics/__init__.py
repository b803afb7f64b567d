"""From results to estimates to verdicts, without torch."""
