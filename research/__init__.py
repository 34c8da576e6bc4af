"""Pretraining and its studies: run from a checkout, in no wheel."""
