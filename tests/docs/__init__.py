"""What the documents say is held against the program: commands run, samples compared, names looked up."""
