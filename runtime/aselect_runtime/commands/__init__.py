"""The commands of a device: each parses, makes one call, prints. `entry` is how every command of the house starts."""
