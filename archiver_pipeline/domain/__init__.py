"""Pure values and decisions: no clock, no environment, no I/O."""
