"""From facts to a data set: cohort, features, targets, and the card that says who is in."""
