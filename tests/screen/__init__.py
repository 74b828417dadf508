"""The terminal UI as a user has it: a process behind a terminal, real keys, and a VM that is looked at past it."""
