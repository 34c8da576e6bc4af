"""The commands of export: each parses, makes one call, prints."""
