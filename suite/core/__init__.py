"""Values and errors that all packages share; imports nothing of the suite's."""
