"""The runs behind docs/evidence.md: what is to be run, what is done, and the tables made from the reports alone."""
