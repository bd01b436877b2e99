"""The one command of the house, `gemel`: noun, then verb."""
