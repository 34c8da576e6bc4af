"""The commands of a device: each parses, makes one call, prints. `entry` starts every command of the project."""
