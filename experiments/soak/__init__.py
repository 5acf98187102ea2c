"""Long trials of what the tests try briefly: faults at random moments, and whole command lines with wrong input."""
