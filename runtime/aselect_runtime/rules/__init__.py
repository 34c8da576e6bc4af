"""Rules on results: an event is a class that covers enough of a zone for long enough.

No module here opens a socket, a thread or a file except that of the rules. The pipeline evaluates the rules, the sinks
deliver the events.
"""

from aselect_runtime.rules.event import Event
from aselect_runtime.rules.file import Rule, Rules, Zone, load_rules
from aselect_runtime.rules.watch import Sight, Watch

__all__ = ["Event", "Rule", "Rules", "Sight", "Watch", "Zone", "load_rules"]
