"""Strategies kept for study: `uniform`, `learned` and `gate` show what a choice is worth, none is recommended."""
