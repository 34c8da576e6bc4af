"""Rules over what the model says: a class that covers enough of a zone for long enough is an event.

Pure: nothing here opens a file (but the rules' own), a socket or a thread. The pipeline evaluates, the sinks deliver.
"""

from aselect_runtime.rules.event import Event
from aselect_runtime.rules.file import Rule, Rules, Zone, load_rules
from aselect_runtime.rules.watch import Sight, Watch

__all__ = ["Event", "Rule", "Rules", "Sight", "Watch", "Zone", "load_rules"]
