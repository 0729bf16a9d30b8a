"""What is asked of a pair: one question a module."""
