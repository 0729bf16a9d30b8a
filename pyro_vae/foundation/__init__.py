"""What all else stands on: errors, files, checks of arguments."""
