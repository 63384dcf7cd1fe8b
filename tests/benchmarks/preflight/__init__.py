"""Preflight against models that it has never seen: healthy ones, and faulty ones whose cause is known."""
