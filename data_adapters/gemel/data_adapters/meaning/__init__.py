"""What records mean: concepts, local codes, units, dates, consent; records become facts."""
