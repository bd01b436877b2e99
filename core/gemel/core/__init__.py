"""The vocabulary that every room shares: studies, programmes, data sets, errors, hashing, signatures."""
