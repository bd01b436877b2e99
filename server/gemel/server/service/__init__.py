"""The coordinator's service: users, roles, tokens, an audit log, and the life of studies, before Flower's Control API."""
