"""The coordinator: it sends signed requests, checks signed replies, averages, and certifies. It parses no patient record."""
