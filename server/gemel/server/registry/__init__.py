"""The registry: every global twin, under its hash, with what it was made of and what is known of it."""
