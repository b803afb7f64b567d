"""The commands of ``weight-feedback``, one class each: its fields are the arguments, calling it does the work."""
