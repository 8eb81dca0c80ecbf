"""Backups of a Postgres and of a home, sealed so that only the holder of a key can read them."""
