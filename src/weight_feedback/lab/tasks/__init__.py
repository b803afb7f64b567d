"""What a trial trains."""
