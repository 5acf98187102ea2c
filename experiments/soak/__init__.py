"""Trials that take too long for the test suite: each says what it found, and exits with 1 if that is not as it should be."""
