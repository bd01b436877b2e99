"""What would happen under another plan: declared estimands, support, g-computation, and what confounding could do to it."""
