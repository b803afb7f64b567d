"""What is to be done: studies, arms, trials and their keys."""
