"""The installed programmes, one folder each; adding one touches no other file."""
