"""The commands of the workstation: each parses, makes one call and prints."""
