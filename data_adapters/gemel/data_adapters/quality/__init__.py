"""What is in an export, and what is wrong with it: the quality report."""
