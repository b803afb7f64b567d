"""What tests share: made-up data, processes, and programs' parts."""
