"""The demo: open data as three hospitals' exports, what only open data allow to compare, and the report."""
