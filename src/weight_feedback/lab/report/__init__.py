"""What a study found, as pages, pictures and tables, without torch."""
